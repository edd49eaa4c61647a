//! The workers: a pool of blocking threads that answer tiny_http's requests, one per lane.
//!
//! Only the gate sends requests, so a worker trusts their framing. It always completes its response,
//! also when a handler panics or the client has disconnected: the lane then takes the next request.

use std::io::{self, Cursor, ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::{Context, Result};
use tiny_http::{Header, Request, StatusCode};

use super::app_state::AppState;
use super::gate::lane::LaneSignals;
use super::handler::{EventSource, Handler, HandlerOutput};
use super::http::{HttpError, Response};
use super::routes::{self, Route, is_openai};

/// nginx would collect the events without `X-Accel-Buffering`.
const EVENTS_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A thread that answers the requests of a lane in turn.
struct Worker {
    app: Arc<AppState>,
    routes: &'static [Route],
    signals: Arc<LaneSignals>,
}

/// Starts the worker of a lane. Errors where a thread cannot be started.
pub fn start(
    server: &'static tiny_http::Server,
    signals: Arc<LaneSignals>,
    app: Arc<AppState>,
    routes: &'static [Route],
) -> Result<()> {
    let worker = Worker {
        app,
        routes,
        signals,
    };
    thread::Builder::new()
        .spawn(move || worker.run(server))
        .context("cannot start a thread")?;
    Ok(())
}

impl Worker {
    fn run(&self, server: &tiny_http::Server) {
        loop {
            // The one error tells that tiny_http accepts no further connection.
            if let Ok(request) = server.recv() {
                // An error means that the gate is gone, and with it the process.
                let _ = self.answer(request);
            }
        }
    }

    fn answer(&self, mut request: Request) -> io::Result<()> {
        let mut body = Vec::new();
        request.as_reader().read_to_end(&mut body)?;
        let path = request.url();
        let output = catch_unwind(AssertUnwindSafe(|| self.route(path, &body)));
        // The panic hook has reported the panic on stderr.
        let output = output.unwrap_or_else(|_| Err(HttpError::internal()));
        let response = match output {
            Ok(HandlerOutput::Events(source)) => return self.stream(request, source),
            Ok(HandlerOutput::Full(response)) => response,
            Err(error) => Response::error(&error, is_openai(path)),
        };
        request.respond(to_tiny_http(response))
    }

    /// Runs the handler of a path, to which the gate admits the right methods only.
    fn route(&self, path: &str, body: &[u8]) -> Result<HandlerOutput, HttpError> {
        match routes::find(self.routes, path) {
            Some((_, Handler::Get(get))) => get(&self.app, path).map(HandlerOutput::Full),
            Some((_, Handler::Post(post))) => post(&self.app, body),
            None => Err(routes::not_found(path)),
        }
    }

    /// Sends events, each in a chunk of its own, until the client disconnects.
    fn stream(&self, request: Request, source: EventSource) -> io::Result<()> {
        let mut writer = request.into_writer();
        let mut write = |text: &str| {
            writer.write_all(text.as_bytes())?;
            writer.flush()
        };
        write(EVENTS_HEAD)?;
        let mut send = |event: &str| {
            if self.signals.client_gone.load(Ordering::Acquire) {
                return Err(ErrorKind::BrokenPipe.into());
            }
            let event = format!("data: {event}\n\n");
            write(&format!("{:x}\r\n{event}\r\n", event.len()))
        };
        let sent = catch_unwind(AssertUnwindSafe(|| source(&self.app, &mut send)));
        self.signals
            .failed
            .store(!matches!(sent, Ok(Ok(()))), Ordering::Release);
        write("0\r\n\r\n")
    }
}

fn to_tiny_http(response: Response) -> tiny_http::Response<Cursor<Vec<u8>>> {
    let headers = response.headers.iter();
    let headers = headers.map(|(name, value)| {
        Header::from_bytes(*name, value.as_str()).expect("handlers write ASCII headers")
    });
    let (length, body) = (response.body.len(), Cursor::new(response.body.into_bytes()));
    let status = StatusCode(response.status);
    // tiny_http would send a large body in chunks, which the gate takes for events.
    tiny_http::Response::new(status, headers.collect(), body, Some(length), None)
        .with_chunked_threshold(usize::MAX)
}
