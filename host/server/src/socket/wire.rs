//! A connection's bytes, plain or TLS, as its reader and those who write to it share them, and when something last came.

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
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::server::TlsStream;

pub(crate) struct Wire {
    io: Io,
    /// When something last came, in milliseconds since the process began to count.
    heard: AtomicU64,
    /// When everything that had come was read, in the same terms.
    emptied: AtomicU64,
    /// Nobody reads, because a request is being answered: what came meanwhile is not known.
    deaf: AtomicBool,
}

enum Io {
    Plain(TcpStream),
    /// Reading and writing change the same session.
    Tls(Box<Mutex<TlsStream<TcpStream>>>),
}

/// Bytes up to which frames are copied together for a write.
const GATHERS: usize = 64 << 10;
/// Bytes that are thrown away at once.
const DISCARDS: usize = 8 << 10;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Wire {
    pub(crate) fn plain(tcp: TcpStream) -> Self {
        Self::new(Io::Plain(tcp))
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self::new(Io::Tls(Box::new(Mutex::new(stream))))
    }

    fn new(io: Io) -> Self {
        let wire =
            Self { io, heard: AtomicU64::new(0), emptied: AtomicU64::new(0), deaf: AtomicBool::new(false) };
        wire.heard();
        wire
    }

    fn heard(&self) {
        self.heard.store(BEGAN.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The silence until now does not count.
    pub(crate) fn excuse(&self) {
        self.heard();
    }

    /// From now on nobody reads, or somebody does again. The silence of a peer that nobody listens to does not count.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::Relaxed);
        self.heard();
    }

    pub(crate) fn last_heard(&self) -> Instant {
        if self.deaf.load(Ordering::Relaxed) {
            return Instant::now();
        }
        *BEGAN + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    /// When all that had come was last read.
    pub(crate) fn last_emptied(&self) -> Instant {
        *BEGAN + Duration::from_millis(self.emptied.load(Ordering::Relaxed))
    }

    fn emptied(&self) {
        self.emptied.store(BEGAN.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn poll_read(&self, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.poll_read_some(cx, buf))?;
        if buf.filled().len() > before {
            self.heard();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads something and throws it away: how many bytes. 0: the peer ended its stream.
    pub(crate) fn poll_discard(&self, cx: &mut Context) -> Poll<io::Result<usize>> {
        let mut bin = [0; DISCARDS];
        let mut bin = ReadBuf::new(&mut bin);
        ready!(self.poll_read_some(cx, &mut bin))?;
        Poll::Ready(Ok(bin.filled().len()))
    }

    fn poll_read_some(&self, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        match &self.io {
            Io::Plain(tcp) => loop {
                ready!(tcp.poll_read_ready(cx))?;
                match tcp.try_read(buf.initialize_unfilled()) {
                    // The system was asked; that nothing is known to have come would not say so.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.emptied(),
                    read => {
                        buf.advance(read?);
                        return Poll::Ready(Ok(()));
                    }
                }
            },
            Io::Tls(stream) => {
                let read = Pin::new(&mut *lock(stream)).poll_read(cx, buf);
                if read.is_pending() {
                    self.emptied();
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

impl Pipe for Wire {
    fn try_write(&self, bytes: &[IoSlice]) -> io::Result<usize> {
        match &self.io {
            Io::Plain(tcp) => try_send(tcp, bytes),
            // It may take bytes and keep them, so somebody has to come back and flush.
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
    static GATHERED: RefCell<Vec<u8>> = const { RefCell::new(vec![]) };
}

/// Copying small frames together costs less than telling the kernel of each.
fn try_send(tcp: &TcpStream, bytes: &[IoSlice]) -> io::Result<usize> {
    if let [bytes] = bytes {
        return tcp.try_write(bytes);
    }
    if bytes.iter().map(|bytes| bytes.len()).sum::<usize>() > GATHERS {
        return tcp.try_write_vectored(bytes);
    }
    GATHERED.with_borrow_mut(|gathered| {
        gathered.clear();
        bytes.iter().for_each(|bytes| gathered.extend_from_slice(bytes));
        tcp.try_write(gathered)
    })
}

fn lock(stream: &Mutex<TlsStream<TcpStream>>) -> MutexGuard<'_, TlsStream<TcpStream>> {
    stream.lock().expect("no code panics while it holds a stream")
}
