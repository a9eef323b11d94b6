//! The socket and its connections: bounded in number, in time and in what they may send before they are answered.

use std::convert::Infallible;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower_service::Service as _;

use crate::{Doors, Refused, router};

/// Connections at once; more wait in the socket's queue.
const CONNECTIONS: usize = 256;
/// A peer that has not sent its headers by then is not going to.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// More than any request line and headers of ours.
const LONGEST_HEADERS: usize = 64 << 10;
/// How long answers may still take when the service stops.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Takes the socket in `data`. The caller holds the lock on that directory, so a socket that is there is of the past.
pub fn listen(data: &Path, shared: bool) -> io::Result<UnixListener> {
    let path = data.join(api::SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // With grants others may knock, and are asked by uid; without, not even that. Directories say the same.
    let (socket, directory) = if shared { (0o666, 0o711) } else { (0o600, 0o700) };
    std::fs::set_permissions(&path, Permissions::from_mode(socket))?;
    std::fs::set_permissions(data, Permissions::from_mode(directory))?;
    Ok(listener)
}

/// Answers until `doors.stop`, then lets answers under way end for a moment.
pub async fn serve(doors: Arc<Doors>, listener: UnixListener) {
    let own = rustix::process::geteuid().as_raw();
    let routes = router(doors.clone());
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = doors.stop.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, place)) => {
                let connection = connection(stream, own, routes.clone(), doors.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                // Out of descriptors: trying again at once would only burn the processor.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let _ = tokio::time::timeout(LAST_ANSWERS, async { while connections.join_next().await.is_some() {} }).await;
    connections.shutdown().await;
}

async fn accept(listener: &UnixListener, room: &Arc<Semaphore>) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = room.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn connection(stream: UnixStream, own: u32, routes: Router, doors: Arc<Doors>) {
    let principal = stream.peer_cred().ok().and_then(|peer| doors.grants.principal(peer.uid(), own));
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (mut routes, principal) = (routes.clone(), principal.clone());
        async move {
            let Some(principal) = principal else { return Ok::<Response, Infallible>(stranger()) };
            request.extensions_mut().insert(principal);
            routes.call(request.map(Body::new)).await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(LONGEST_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = doors.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A peer that went away or sent no HTTP is no event of the service.
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn stranger() -> Response {
    let next = "have the service started with --grant for your user";
    Refused::new(StatusCode::FORBIDDEN, "denied", "this user has no role in this service", next).into_response()
}
