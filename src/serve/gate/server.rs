//! The listener, and a thread per connection that answers its requests in turn.
//!
//! A thread that waits for its client costs little; the lanes bound the work.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::access::Access;
use super::admission::{Admission, Lent};
use super::connection::{Connection, ReadError};
use super::head::RequestHead;
use super::lane::{Lane, LaneResponse};
use crate::infer::InferenceGpt;
use crate::serve::app_state::AppState;
use crate::serve::handler::Handler;
use crate::serve::http::{HttpError, Response};
use crate::serve::routes::{self, ROUTES, Route, is_openai};
use crate::serve::workers;

/// The time that active requests have to end after a stop signal.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of open connections.
const MAX_CONNECTIONS: usize = 4096;

/// The length of the listening socket's queue. The standard library's 128 is less than a burst of
/// clients, and a client beyond it retries only after a second.
const BACKLOG: i32 = 1024;

#[derive(Clone)]
pub struct ServeOptions {
    pub host: String,
    /// 0 picks a free port.
    pub port: u16,
    /// The maximum number of active requests.
    pub threads: usize,
    /// Disables the access log.
    pub quiet: bool,
    pub access: Access,
}

/// A server that listens but does not accept yet.
pub struct Server {
    listener: TcpListener,
    handler: Arc<ConnectionHandler>,
}

impl Server {
    /// Listens. `info` is the response of `GET /microgpt/v1/info`. Errors where the address cannot
    /// be bound.
    pub fn bind(options: ServeOptions, model: Arc<InferenceGpt>, info: Value) -> Result<Self> {
        Self::bind_routes(options, model, info, &ROUTES)
    }

    fn bind_routes(
        options: ServeOptions,
        model: Arc<InferenceGpt>,
        info: Value,
        routes: &'static [Route],
    ) -> Result<Self> {
        // An IPv6 address may have brackets, as in a URL.
        let host = options.host.strip_prefix('[');
        let host = host.and_then(|host| host.strip_suffix(']'));
        let address = (host.unwrap_or(&options.host), options.port);
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {}:{}", options.host, options.port))?;
        socket2::SockRef::from(&listener).listen(BACKLOG)?;
        let mut access = options.access;
        access.hosts.push(options.host);
        let app = Arc::new(AppState::new(model, info, options.threads)?);
        let open_lane = || {
            Lane::open(|server, signals| workers::start(server, signals, Arc::clone(&app), routes))
                .with_context(|| format!("cannot start {} workers", options.threads))
        };
        let get_lane = Admission::new(MAX_CONNECTIONS);
        get_lane.add(open_lane()?);
        for _ in 0..options.threads {
            app.admission.add(open_lane()?);
        }
        let handler = ConnectionHandler {
            access,
            app,
            get_lane,
            routes,
            quiet: options.quiet,
            stopping: AtomicBool::new(false),
            open_connections: Arc::default(),
            active_requests: Arc::default(),
        };
        let handler = Arc::new(handler);
        Ok(Self { listener, handler })
    }

    /// The address that the server listens on.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers requests until `stop` is set. Then stops accepting, and waits for active requests.
    pub fn run(self, stop: &AtomicBool) -> Result<()> {
        let address = self.address()?;
        let (handler, listener) = (Arc::clone(&self.handler), self.listener);
        spawn(move || handler.accept(&listener))?;
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
        self.handler.stopping.store(true, Ordering::Relaxed);
        // A connection wakes the accepting thread, which then closes the port.
        let _ = TcpStream::connect_timeout(&address, SHUTDOWN_TIMEOUT);
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        while in_use(&self.handler.active_requests) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .spawn(run)
        .context("cannot start a thread")?;
    Ok(())
}

/// The state that the threads of all connections share.
struct ConnectionHandler {
    access: Access,
    app: Arc<AppState>,
    /// The lane of GET and HEAD, which need no model; `app.admission` has those of POST.
    get_lane: Admission<Lane>,
    routes: &'static [Route],
    quiet: bool,
    stopping: AtomicBool,
    /// Has a clone per open connection.
    open_connections: Arc<()>,
    /// Has a clone per request that was read and is not answered yet.
    active_requests: Arc<()>,
}

/// The number of clones of a counter.
fn in_use(counter: &Arc<()>) -> usize {
    Arc::strong_count(counter) - 1
}

impl ConnectionHandler {
    /// Accepts connections until the server stops.
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            match accepted {
                Ok((stream, client)) => self.spawn_connection(stream, client),
                // The client left before it was accepted.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                // For example too many open files, until another connection ends.
                Err(error) => {
                    log(format_args!(
                        "microgpt: warning: cannot accept a connection: {error}"
                    ));
                    thread::sleep(Duration::from_millis(500));
                }
            }
        }
    }

    /// Starts a thread for a connection, or refuses the connection if there are too many.
    fn spawn_connection(self: &Arc<Self>, stream: TcpStream, client: SocketAddr) {
        let Ok(mut connection) = Connection::new(stream) else {
            return;
        };
        if in_use(&self.open_connections) >= MAX_CONNECTIONS {
            let error = HttpError::unavailable("too many connections");
            return self.refuse(&mut connection, client, None, Instant::now(), &error);
        }
        let (handler, open) = (Arc::clone(self), Arc::clone(&self.open_connections));
        let run = move || {
            handler.handle_connection(connection, client);
            drop(open);
        };
        // A failed spawn drops the closure and with it the connection.
        if let Err(error) = spawn(run) {
            log(format_args!("microgpt: warning: {error:#}"));
        }
    }

    /// Answers the requests of a connection in turn.
    fn handle_connection(&self, mut connection: Connection<TcpStream>, client: SocketAddr) {
        loop {
            let (mut head, mut arrived) = (None, None);
            let body = connection.read_head().and_then(|read| {
                arrived = Some(Instant::now());
                let head = head.insert(read);
                head.cors_headers = self.access.cors_headers(head);
                self.access.check(head)?;
                connection.read_body(head)
            });
            let arrived = arrived.unwrap_or_else(Instant::now);
            let (head, body) = match (head, body) {
                (Some(head), Ok(body)) => (head, body),
                (head, Err(ReadError::Refused(error))) => {
                    self.refuse(&mut connection, client, head.as_ref(), arrived, &error);
                    return connection.close();
                }
                _ => return,
            };
            let active = Arc::clone(&self.active_requests);
            let close = !head.keeps_alive() || self.stopping.load(Ordering::Relaxed);
            let (status, sent) = self.answer(&mut connection, &head, &body, close);
            self.log_request(client, Some(&head), status, arrived);
            drop(active);
            if close || !sent {
                return connection.close();
            }
            if connection.wait_for_next().is_err() {
                return;
            }
        }
    }

    /// Answers a request. Returns the status, and whether the whole response was sent.
    fn answer(
        &self,
        connection: &mut Connection<TcpStream>,
        head: &RequestHead,
        body: &[u8],
        close: bool,
    ) -> (u16, bool) {
        if let Some(response) = self.access.preflight(head) {
            let sent = connection.write_response(&response, Some(head), close);
            return (response.status, sent.is_ok());
        }
        let response = self.admit(head).and_then(|mut lane| {
            let response = lane.request(&head.method, &head.path, body);
            Ok((lane, response.map_err(lost_worker)?))
        });
        let (mut lane, response) = match response {
            Ok(response) => response,
            Err(error) => {
                let response = Response::error(&error, is_openai(&head.path));
                let sent = connection.write_response(&response, Some(head), close);
                return (response.status, sent.is_ok());
            }
        };
        let LaneResponse {
            status,
            header_lines,
            body,
        } = response;
        let Some(body) = body else {
            return self.relay_events(connection, head, close, &mut lane, &header_lines);
        };
        // The next request need not wait until this client has read its response.
        drop(lane);
        let sent = connection.write(status, &header_lines, &body, Some(head), close);
        (status, sent.is_ok())
    }

    /// Waits for a lane. Errors if there is no handler, or if too many requests wait.
    fn admit(&self, head: &RequestHead) -> Result<Lent<'_, Lane>, HttpError> {
        let content_type = head.content_type();
        let lane = match routes::resolve(
            self.routes,
            &head.method,
            &head.path,
            content_type.as_deref(),
        )? {
            Handler::Get(_) => self.get_lane.acquire(),
            Handler::Post(_) if self.stopping.load(Ordering::Relaxed) => {
                return Err(HttpError::unavailable("the server is stopping"));
            }
            Handler::Post(_) => self.app.admission.acquire(),
        };
        lane.ok_or_else(|| HttpError::unavailable("too many requests are waiting"))
    }

    /// Sends a worker's events to the client. A client that disconnects cancels them.
    fn relay_events(
        &self,
        connection: &mut Connection<TcpStream>,
        head: &RequestHead,
        close: bool,
        lane: &mut Lane,
        header_lines: &str,
    ) -> (u16, bool) {
        let mut sent = connection.begin_events(header_lines, head, close);
        loop {
            if sent.is_err() {
                lane.cancel();
            }
            match lane.read_events() {
                Ok(Some(events)) if sent.is_ok() => sent = connection.write_events(&events, head),
                // The worker's response must be read to its end.
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return (lost_worker(error).status, false),
            }
        }
        // 499 is the customary status in logs for a client that disconnected.
        match sent {
            Err(_) => (499, false),
            Ok(()) if lane.has_failed() => (500, false),
            Ok(()) => match connection.end_events(head) {
                Ok(()) => (200, true),
                Err(_) => (499, false),
            },
        }
    }

    /// Answers a request that cannot be read, and logs it.
    fn refuse(
        &self,
        connection: &mut Connection<TcpStream>,
        client: SocketAddr,
        head: Option<&RequestHead>,
        arrived: Instant,
        error: &HttpError,
    ) {
        let openai = head.is_some_and(|head| is_openai(&head.path));
        let response = Response::error(error, openai);
        // An error means that the client disconnected.
        let _ = connection.write_response(&response, head, true);
        self.log_request(client, head, response.status, arrived);
    }

    /// Counts a request, and writes a line of the access log.
    fn log_request(
        &self,
        client: SocketAddr,
        head: Option<&RequestHead>,
        status: u16,
        arrived: Instant,
    ) {
        let duration = arrived.elapsed();
        let (method, path) = head.map_or(("-", "-"), |head| (&head.method, &head.path));
        let endpoint = routes::find(self.routes, path).map_or("other", |(path, _)| path);
        self.app.metrics.count_request(endpoint, status, duration);
        if !self.quiet {
            let milliseconds = duration.as_secs_f64() * 1000.0;
            log(format_args!(
                "{client} {method} {path:?} {status} {milliseconds:.1}ms"
            ));
        }
    }
}

/// Reports a lane that broke, which only a bug can cause.
fn lost_worker(error: io::Error) -> HttpError {
    log(format_args!(
        "microgpt: warning: no response of a worker: {error}"
    ));
    HttpError::internal()
}

/// Writes a line to stderr, and ignores a closed one.
fn log(line: Arguments) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::panic::resume_unwind;
    use std::sync::Barrier;

    use serde_json::json;

    use super::*;
    use crate::data::Corpus;
    use crate::model::{ModelConfig, ModelMeta, initial_weights};
    use crate::serve::handler::{EventSource, HandlerOutput};

    const THREADS: usize = 3;

    /// Fails like a panic, without a message on stderr.
    fn fail() -> ! {
        resume_unwind(Box::new(()))
    }

    fn events(source: EventSource) -> Result<HandlerOutput, HttpError> {
        Ok(HandlerOutput::Events(source))
    }

    static FAILING_ROUTES: [Route; 5] = [
        ("/get", Handler::Get(|_, _| fail())),
        ("/post", Handler::Post(|_, _| fail())),
        (
            "/failing-events",
            Handler::Post(|_, _| {
                events(Box::new(|_, send| {
                    send("1")?;
                    fail()
                }))
            }),
        ),
        (
            "/endless-events",
            Handler::Post(|_, _| {
                events(Box::new(|_, send| {
                    loop {
                        send("1")?;
                    }
                }))
            }),
        ),
        (
            "/all-lanes",
            Handler::Post(|app, _| {
                static ALL_LANES: Barrier = Barrier::new(THREADS);
                ALL_LANES.wait();
                Ok(HandlerOutput::Full(Response::json(&app.info)))
            }),
        ),
    ];

    /// Sends a request without reading the response.
    fn send(address: SocketAddr, method: &str, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        let headers = "Host: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
            Content-Length: 0";
        write!(stream, "{method} {path} HTTP/1.1\r\n{headers}\r\n\r\n").unwrap();
        stream
    }

    fn response(address: SocketAddr, method: &str, path: &str) -> String {
        let mut response = String::new();
        let mut stream = send(address, method, path);
        stream.read_to_string(&mut response).unwrap();
        response
    }

    #[test]
    fn panics_and_disconnects_leave_every_lane_working() {
        static STOP: AtomicBool = AtomicBool::new(false);
        let corpus = Corpus::documents("ab").unwrap();
        let config = ModelConfig::default();
        let meta = ModelMeta {
            config,
            tokenizer: corpus.tokenizer(),
        };
        let weights = initial_weights(config, meta.tokenizer.vocab_size(), 1);
        let model = Arc::new(InferenceGpt::from_tensors(meta, &weights));
        let options = ServeOptions {
            host: "127.0.0.1".into(),
            port: 0,
            threads: THREADS,
            quiet: true,
            access: Access::default(),
        };
        let server = Server::bind_routes(options, model, json!({}), &FAILING_ROUTES).unwrap();
        let address = server.address().unwrap();
        let running = thread::spawn(|| server.run(&STOP));
        thread::scope(|scope| {
            for _ in 0..THREADS + 1 {
                scope.spawn(|| {
                    for _ in 0..250 {
                        for (method, path) in [("GET", "/get"), ("POST", "/post")] {
                            let response = response(address, method, path);
                            assert!(response.starts_with("HTTP/1.1 500 "), "{response}");
                        }
                        let cut_off = response(address, "POST", "/failing-events");
                        assert!(cut_off.ends_with("data: 1\n\n\r\n"), "{cut_off}");
                        let mut stream = send(address, "POST", "/endless-events");
                        stream.read_exact(&mut [0; 100]).unwrap();
                    }
                });
            }
        });
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let response = response(address, "POST", "/all-lanes");
                    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
                });
            }
        });
        STOP.store(true, Ordering::Relaxed);
        running.join().unwrap().unwrap();
    }
}
