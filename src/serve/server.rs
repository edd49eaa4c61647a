//! The listener, and a thread per connection that answers its requests in turn.
//!
//! A thread that waits for its client costs little; admission bounds the work. tiny_http is not used
//! because it reads heads without a limit, accepts ambiguous framing, and stops accepting after an
//! error.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::access::Access;
use super::admission::Permit;
use super::app_state::AppState;
use super::connection::{Connection, ReadError};
use super::handler::{EventSource, Handler, HandlerOutput};
use super::head::RequestHead;
use super::http::{HttpError, Response};
use super::routes::{self, ROUTES, Route, is_openai};
use crate::infer::InferenceGpt;

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
        // An IPv6 address may have brackets, as in a URL.
        let host = options.host.strip_prefix('[');
        let host = host.and_then(|host| host.strip_suffix(']'));
        let address = (host.unwrap_or(&options.host), options.port);
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {}:{}", options.host, options.port))?;
        socket2::SockRef::from(&listener).listen(BACKLOG)?;
        let mut access = options.access;
        access.hosts.push(options.host);
        let handler = ConnectionHandler {
            access,
            app: AppState::new(model, info, options.threads)?,
            routes: &ROUTES,
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
    app: AppState,
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
        let RequestHead { method, path, .. } = head;
        let content_type = head.content_type();
        let handler = routes::resolve(self.routes, method, path, content_type.as_deref());
        let mut permit = None;
        let output = handler.and_then(|handler| match handler {
            Handler::Get(get) => catch_panic(|| get(&self.app, path)).map(HandlerOutput::Full),
            Handler::Post(post) => {
                permit = Some(self.admit()?);
                catch_panic(|| post(&self.app, body))
            }
        });
        let response = match output {
            Ok(HandlerOutput::Events(source)) => {
                return self.stream(connection, head, close, source);
            }
            Ok(HandlerOutput::Full(response)) => response,
            Err(error) => Response::error(&error, is_openai(&head.path)),
        };
        // The next request need not wait until this client has read its response.
        drop(permit);
        let sent = connection.write_response(&response, Some(head), close);
        (response.status, sent.is_ok())
    }

    fn admit(&self) -> Result<Permit<'_>, HttpError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(HttpError::unavailable("the server is stopping"));
        }
        let permit = self.app.admission.acquire();
        permit.ok_or_else(|| HttpError::unavailable("too many requests are waiting"))
    }

    /// Sends events. A client that disconnects cancels them.
    fn stream(
        &self,
        connection: &mut Connection<TcpStream>,
        head: &RequestHead,
        close: bool,
        source: EventSource,
    ) -> (u16, bool) {
        let sent = catch_unwind(AssertUnwindSafe(|| {
            connection.write_events(head, close, |send| source(&self.app, send))
        }));
        // 499 is the customary status in logs for a client that disconnected.
        match sent {
            Ok(Ok(())) => (200, true),
            Ok(Err(_)) => (499, false),
            Err(_) => (500, false),
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

/// Turns a panic into a 500. The panic hook has reported it on stderr.
fn catch_panic<T>(run: impl FnOnce() -> Result<T, HttpError>) -> Result<T, HttpError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(HttpError::internal()))
}

/// Writes a line to stderr, and ignores a closed one.
fn log(line: Arguments) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use serde_json::json;

    use super::*;
    use crate::data::Corpus;
    use crate::model::{ModelConfig, ModelMeta, initial_weights};

    /// The status line of a response.
    fn status_line(address: SocketAddr, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let headers = "Host: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\
            Content-Type: application/json";
        write!(stream, "{method} {path} HTTP/1.1\r\n{headers}\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response.lines().next().unwrap_or_default().to_string()
    }

    #[test]
    fn panicking_handlers_answer_500_and_release_their_permits() {
        static STOP: AtomicBool = AtomicBool::new(false);
        static PANICKING_ROUTES: [Route; 3] = [
            ("/get", Handler::Get(|_, _| panic!("a failing GET handler"))),
            (
                "/post",
                Handler::Post(|_, _| panic!("a failing POST handler")),
            ),
            (
                "/works",
                Handler::Post(|app, _| Ok(HandlerOutput::Full(Response::json(&app.info)))),
            ),
        ];
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
            threads: 2,
            quiet: true,
            access: Access::default(),
        };
        let mut server = Server::bind(options, model, json!({})).unwrap();
        Arc::get_mut(&mut server.handler).unwrap().routes = &PANICKING_ROUTES;
        let address = server.address().unwrap();
        let running = thread::spawn(|| server.run(&STOP));
        for _ in 0..5 {
            for (method, path) in [("GET", "/get"), ("POST", "/post")] {
                let status = status_line(address, method, path);
                assert_eq!(status, "HTTP/1.1 500 Internal Server Error");
            }
        }
        assert_eq!(status_line(address, "POST", "/works"), "HTTP/1.1 200 OK");
        STOP.store(true, Ordering::Relaxed);
        running.join().unwrap().unwrap();
    }
}
