//! Accepts connections, and closes those that are too slow.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nanoinfer_platform::local;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Sleep, sleep};

use super::app::App;

/// Where connections come from.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Local(local::Listener),
}

/// A connection.
enum Socket {
    Tcp(TcpStream),
    Local(local::Stream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                let _ = stream.set_nodelay(true); // only costs time if it fails
                Socket::Tcp(stream)
            }
            Self::Local(listener) => Socket::Local(listener.accept().await?),
        })
    }
}

/// Accepts connections until it is dropped. Running ones end when `closing` becomes true, after the response
/// in progress.
pub(crate) async fn accept(
    app: Arc<App>,
    listener: Listener,
    router: Router,
    closing: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(app.options.limits.connections));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let socket = match listener.accept().await {
            Ok(socket) => socket,
            Err(error) => {
                // Out of descriptors, for example; accepting again at once would spin.
                app.options.log.line(&format!("cannot accept a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let patience = app.options.limits.write;
        let (app, router, closing) = (Arc::clone(&app), router.clone(), closing.clone());
        tokio::spawn(async move {
            app.metrics.connections.inc();
            match socket {
                Socket::Tcp(s) => connection(&app, Timed::new(s, patience), router, closing).await,
                Socket::Local(s) => {
                    connection(&app, Timed::new(s, patience), router, closing).await
                }
            }
            app.metrics.connections.dec();
            drop(permit);
        });
    }
}

async fn connection(
    app: &App,
    io: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    mut closing: watch::Receiver<bool>,
) {
    let limits = &app.options.limits;
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read)
        .max_header_size(limits.head)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    let mut served = pin!(served);
    // Errors are those of the client's connection, which only the client can mend.
    tokio::select! {
        _ = served.as_mut() => return,
        _ = closing.wait_for(|closing| *closing) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

/// A connection on which a write fails if the peer reads nothing for too long.
struct Timed<S> {
    stream: S,
    patience: Duration,
    /// When the write in progress fails.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, deadline: None }
    }

    fn wait<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.deadline = None;
            return write;
        }
        let patience = self.patience;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wait(cx, write)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.stream).poll_flush(cx);
        self.wait(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.wait(cx, shutdown)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wait(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
