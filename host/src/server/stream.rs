//! A connection's bytes, plain or TLS, with a note of when something last came.

use crate::socket::Wire;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! either {
    ($self:expr, $stream:ident => $then:expr) => {
        match $self {
            Stream::Plain(stream) => {
                let $stream = Pin::new(stream);
                $then
            }
            Stream::Tls(stream) => {
                let $stream = Pin::new(stream);
                $then
            }
        }
    };
}

pub struct Counted {
    stream: Stream,
    wire: Arc<Wire>,
}

impl Counted {
    pub fn new(stream: Stream, wire: Arc<Wire>) -> Self {
        Self { stream, wire }
    }
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.wire.discards() {
            // The peer reads the end of the stream, closes, and with that ends this.
            ready!(either!(&mut this.stream, stream => stream.poll_shutdown(cx)))?;
            let mut bin = [0; 4096];
            loop {
                let mut bin = ReadBuf::new(&mut bin);
                ready!(either!(&mut this.stream, stream => stream.poll_read(cx, &mut bin)))?;
                if bin.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let before = buf.filled().len();
        ready!(either!(&mut this.stream, stream => stream.poll_read(cx, buf)))?;
        if buf.filled().len() > before {
            this.wire.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(&mut self.get_mut().stream, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context,
        bufs: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        either!(&mut self.get_mut().stream, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        either!(&mut self.get_mut().stream, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        either!(&mut self.get_mut().stream, stream => stream.poll_shutdown(cx))
    }
}
