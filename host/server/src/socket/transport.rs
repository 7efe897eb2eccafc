//! The bytes of a connection, plain or TLS, shared by its reader and everybody who writes to it; and when
//! something was last received. Knows no frames.

use crate::outbox::Pipe;
use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        LazyLock, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use switchyard_process::lock::LockExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::server::TlsStream;

pub(crate) struct Transport {
    io: Io,
    /// When something was last received, in milliseconds since [`CLOCK_START`].
    received_at: AtomicU64,
    /// When everything that was received had last been read, in the same unit.
    drained_at: AtomicU64,
    /// False while a request is carried out: then nobody reads, so it is unknown whether the peer is silent.
    is_reading: AtomicBool,
}

enum Io {
    Plain(TcpStream),
    /// Reading and writing both change the state of the TLS session.
    Tls(Box<Mutex<TlsStream<TcpStream>>>),
}

/// Up to this many bytes, the frames of a write are copied into one buffer.
const MAX_COPIED_BYTES: usize = 64 << 10;
/// How many bytes are discarded at once.
const DISCARD_BUFFER_BYTES: usize = 8 << 10;

/// The time from which times are counted.
static CLOCK_START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Transport {
    pub(crate) fn plain(tcp: TcpStream) -> Self {
        Self::new(Io::Plain(tcp))
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self::new(Io::Tls(Box::new(Mutex::new(stream))))
    }

    fn new(io: Io) -> Self {
        let transport = Self {
            io,
            received_at: AtomicU64::new(0),
            drained_at: AtomicU64::new(0),
            is_reading: AtomicBool::new(true),
        };
        transport.reset_silence();
        transport
    }

    /// The peer counts as silent from now on: any silence before does not count.
    pub(crate) fn reset_silence(&self) {
        self.received_at.store(CLOCK_START.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Says whether somebody reads from now on. While nobody does, the peer does not count as silent.
    pub(crate) fn set_reading(&self, is_reading: bool) {
        self.is_reading.store(is_reading, Ordering::Relaxed);
        self.reset_silence();
    }

    /// When something was last received; now, while nobody reads.
    pub(crate) fn last_received(&self) -> Instant {
        if !self.is_reading.load(Ordering::Relaxed) {
            return Instant::now();
        }
        *CLOCK_START + Duration::from_millis(self.received_at.load(Ordering::Relaxed))
    }

    /// When everything that was received had last been read.
    pub(crate) fn last_drained(&self) -> Instant {
        *CLOCK_START + Duration::from_millis(self.drained_at.load(Ordering::Relaxed))
    }

    fn set_drained(&self) {
        self.drained_at.store(CLOCK_START.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn poll_read(&self, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.poll_read_some(cx, buf))?;
        if buf.filled().len() > before {
            self.reset_silence();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads some bytes and discards them. Returns how many; 0 means that the peer ended its stream.
    pub(crate) fn poll_discard(&self, cx: &mut Context) -> Poll<io::Result<usize>> {
        let mut buffer = [0; DISCARD_BUFFER_BYTES];
        let mut buffer = ReadBuf::new(&mut buffer);
        ready!(self.poll_read_some(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_read_some(&self, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        match &self.io {
            Io::Plain(tcp) => loop {
                ready!(tcp.poll_read_ready(cx))?;
                match tcp.try_read(buf.initialize_unfilled()) {
                    // Only the system knows that nothing is left. That the runtime does not consider the socket
                    // readable proves nothing.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.set_drained(),
                    read => {
                        buf.advance(read?);
                        return Poll::Ready(Ok(()));
                    }
                }
            },
            Io::Tls(stream) => {
                let read = Pin::new(&mut *lock(stream)).poll_read(cx, buf);
                if read.is_pending() {
                    self.set_drained();
                }
                read
            }
        }
    }

    pub(crate) fn poll_shutdown(&self, cx: &mut Context) -> Poll<io::Result<()>> {
        match &self.io {
            Io::Plain(tcp) => Poll::Ready(socket2::SockRef::from(tcp).shutdown(std::net::Shutdown::Write)),
            Io::Tls(stream) => Pin::new(&mut *lock(stream)).poll_shutdown(cx),
        }
    }
}

impl Pipe for Transport {
    fn try_write(&self, bytes: &[IoSlice]) -> io::Result<usize> {
        match &self.io {
            Io::Plain(tcp) => try_send(tcp, bytes),
            // TLS may buffer what is written, so it would have to be flushed later.
            Io::Tls(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn poll_write(&self, cx: &mut Context, bytes: &[IoSlice]) -> Poll<io::Result<usize>> {
        match &self.io {
            Io::Plain(tcp) => loop {
                ready!(tcp.poll_write_ready(cx))?;
                match try_send(tcp, bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    written => return Poll::Ready(written),
                }
            },
            Io::Tls(stream) => Pin::new(&mut *lock(stream)).poll_write_vectored(cx, bytes),
        }
    }

    fn poll_flush(&self, cx: &mut Context) -> Poll<io::Result<()>> {
        match &self.io {
            Io::Plain(_) => Poll::Ready(Ok(())),
            Io::Tls(stream) => Pin::new(&mut *lock(stream)).poll_flush(cx),
        }
    }
}

thread_local! {
    static COPY_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(vec![]) };
}

/// Copies small frames into one buffer, which costs less than a vectored write.
fn try_send(tcp: &TcpStream, bytes: &[IoSlice]) -> io::Result<usize> {
    if let [bytes] = bytes {
        return tcp.try_write(bytes);
    }
    if bytes.iter().map(|bytes| bytes.len()).sum::<usize>() > MAX_COPIED_BYTES {
        return tcp.try_write_vectored(bytes);
    }
    COPY_BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        bytes.iter().for_each(|bytes| buffer.extend_from_slice(bytes));
        tcp.try_write(buffer)
    })
}

fn lock(stream: &Mutex<TlsStream<TcpStream>>) -> MutexGuard<'_, TlsStream<TcpStream>> {
    stream.locked()
}
