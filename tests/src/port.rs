//! Ports for processes that cannot choose one themselves.

use std::net::SocketAddr;
use tokio::net::TcpSocket;

/// A free address of this host, and the socket that keeps others from it: without that socket, any connection
/// of a test beside this one may get the port before the process that it is for.
pub fn hold_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Redis and the server set this option too. Two sockets with it may share a port as long as only one
    // listens.
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = socket.local_addr().expect("its address");
    (socket, address)
}
