//! One accepted connection as the operating system has it: bytes in and out, and whether the peer is still there.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep};

use super::activity::Activity;

/// How long a silent TCP connection is left alone before the kernel asks whether the other machine still exists.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);

/// A connection of either kind. Shared: the stream reads and writes, others look after the peer.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Whether somebody is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// As far as is known.
    Present,
    /// Sends no more; whether it still reads shows when something is sent.
    HalfClosed,
    /// Reads no more either.
    Gone,
}

impl Socket {
    /// Settings of a fresh connection. None is needed, so that failures are no reason to refuse it.
    pub(crate) fn prepare(&self) {
        let Self::Tcp(stream) = self else { return };
        // Frames of a stream are small and must leave at once.
        let set = sockopt::set_tcp_nodelay(stream, true);
        let set = set.and_then(|()| sockopt::set_socket_keepalive(stream, true));
        if let Err(error) = set.and_then(|()| sockopt::set_tcp_keepidle(stream, KEEP_ALIVE_IDLE)) {
            tracing::debug!(%error, "a connection does not take all of its settings");
        }
    }

    /// The client's address, if it has one.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Looks at the peer without taking bytes: what it has sent and nobody has read does not hide that it hung up.
    pub(super) fn peer(&self) -> Peer {
        let mut descriptors = [PollFd::new(self, PollFlags::RDHUP)];
        if rustix::event::poll(&mut descriptors, Some(&Timespec::default())).is_err() {
            return Peer::Present;
        }
        let [descriptor] = descriptors;
        let found = descriptor.revents();
        if found.intersects(PollFlags::ERR | PollFlags::HUP) {
            Peer::Gone
        } else if found.contains(PollFlags::RDHUP) {
            Peer::HalfClosed
        } else {
            Peer::Present
        }
    }

    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(context),
            Self::Unix(stream) => stream.poll_read_ready(context),
        }
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(context),
            Self::Unix(stream) => stream.poll_write_ready(context),
        }
    }

    fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(bytes),
            Self::Unix(stream) => stream.try_read(bytes),
        }
    }

    /// Writes what fits now.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(bytes),
            Self::Unix(stream) => stream.try_write_vectored(bytes),
        }
    }

    /// Says that nothing more will be sent. A peer that is gone needs not be told.
    pub(super) fn end_sending(&self) {
        let _ = shutdown(self, Shutdown::Write);
    }

    /// Reads and drops what comes, until the peer ends, fails, or has sent `most_bytes`.
    pub(super) async fn drain(&self, most_bytes: usize) {
        let mut bytes = vec![0; 1 << 14];
        let mut drained = 0;
        while drained < most_bytes {
            if std::future::poll_fn(|context| self.poll_read_ready(context)).await.is_err() {
                return;
            }
            match self.try_read(&mut bytes) {
                Ok(0) => return,
                Ok(read) => drained += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// The bytes of a connection, for hyper. Fails when the peer takes nothing for as long as it may.
pub(super) struct Stream {
    socket: Arc<Socket>,
    activity: Arc<Activity>,
    write_limit: Duration,
    /// Runs while the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    pub(super) fn new(socket: Arc<Socket>, activity: Arc<Activity>, write_limit: Duration) -> Self {
        Self { socket, activity, write_limit, stalled: None }
    }

    fn poll_write_with(
        &mut self,
        context: &mut Context<'_>,
        write: impl Fn(&Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.activity.bytes_wait();
        loop {
            match self.socket.poll_write_ready(context) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    let limit = self.write_limit;
                    let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
                    ready!(stalled.as_mut().poll(context));
                    tracing::debug!("a client does not read: its connection is closed");
                    return Poll::Ready(Err(ErrorKind::TimedOut.into()));
                }
            }
            match write(&self.socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => {
                    self.stalled = None;
                    return Poll::Ready(result);
                }
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_read_ready(context))?;
            match self.socket.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    self.activity.bytes_came(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |socket| socket.try_write_vectored(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Called when all that was to be written is written.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.activity.bytes_left();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.end_sending();
        Poll::Ready(Ok(()))
    }
}
