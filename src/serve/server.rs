//! Listening, and a thread for each connection, which reads its requests and answers them in turn.
//!
//! A thread that waits for its client costs little; the work is bounded by the admission. tiny_http,
//! which would do much of this, is not used because it reads heads without a limit, lets two
//! requests be smuggled as one, and stops accepting after an error.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::admission::Admission;
use super::api::{self, App};
use super::connection::{Connection, ReadError};
use super::engine::Engine;
use super::head::Head;
use super::http::{HttpError, Response};
use super::metrics::Metrics;
use super::openai::{Events, Reply};
use super::routes::{answer_operator, endpoint, is_openai, route};
use crate::infer::InferenceGpt;
use crate::kernels::cpu::cores;

/// How long requests under way may take to end after the server was asked to stop.
const GRACE: Duration = Duration::from_secs(10);

/// How many connections there may be at once.
const CONNECTIONS: usize = 4096;

/// How many connections the system keeps until they are accepted. The standard library's 128 are
/// fewer than come at once when a load begins, and a client that finds no room tries again only
/// after a second.
const BACKLOG: i32 = 1024;

/// How many requests may wait: so many for each that is being answered, and not fewer than these.
const QUEUE_PER_TURN: usize = 8;
const LEAST_QUEUE: usize = 64;

/// Where and how to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    pub host: String,
    /// 0 takes a free one.
    pub port: u16,
    /// How many requests are answered at once.
    pub threads: usize,
    /// No access log.
    pub quiet: bool,
}

/// A server that listens, and does not answer yet.
pub struct Server {
    listener: TcpListener,
    host: Arc<Host>,
}

impl Server {
    /// Listens. `info` is what `GET /microgpt/v1/info` answers. Errors where the address can't be
    /// had.
    pub fn bind(options: ServeOptions, model: Arc<InferenceGpt>, info: Value) -> Result<Self> {
        let address = (options.host.as_str(), options.port);
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {}:{}", options.host, options.port))?;
        socket2::SockRef::from(&listener).listen(BACKLOG)?;
        let metrics = Arc::new(Metrics::default());
        let engine = Engine::start(
            Arc::clone(&model),
            Arc::clone(&metrics),
            options.threads.min(cores()),
        )?;
        let app = App {
            model,
            info,
            metrics,
            engine,
            started: api::seconds_since_1970(),
        };
        let most_waiting = (options.threads * QUEUE_PER_TURN).max(LEAST_QUEUE);
        let host = Arc::new(Host {
            app,
            admission: Admission::new(options.threads, most_waiting),
            quiet: options.quiet,
            stopping: AtomicBool::new(false),
            connections: Arc::default(),
            under_way: Arc::default(),
        });
        Ok(Self { listener, host })
    }

    /// The address that it listens on.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers requests until `stop` is set, and then those under way.
    pub fn run(self, stop: &AtomicBool) -> Result<()> {
        let address = self.address()?;
        let (host, listener) = (Arc::clone(&self.host), self.listener);
        spawn(move || host.accept(&listener))?;
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
        self.host.stopping.store(true, Ordering::Relaxed);
        // The thread that accepts hears of it when somebody comes, and closes the port.
        let _ = TcpStream::connect_timeout(&address, GRACE);
        let start = Instant::now();
        while self.host.under_way.load(Ordering::Relaxed) > 0 && start.elapsed() < GRACE {
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

/// What the threads of all connections share.
struct Host {
    app: App,
    admission: Admission,
    quiet: bool,
    stopping: AtomicBool,
    /// How many connections there are.
    connections: Arc<AtomicUsize>,
    /// How many requests have arrived and are not answered yet.
    under_way: Arc<AtomicUsize>,
}

/// Counts for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Host {
    /// Accepts connections until the server stops.
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            match accepted {
                Ok((stream, client)) => self.welcome(stream, client),
                // The client was gone before it was accepted.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                // Such as too many open files: those that are open go on, and some will end.
                Err(error) => {
                    note(format_args!(
                        "microgpt: warning: cannot accept a connection: {error}"
                    ));
                    thread::sleep(Duration::from_millis(500));
                }
            }
        }
    }

    /// Gives a connection a thread of its own, or refuses it where there are too many.
    fn welcome(self: &Arc<Self>, stream: TcpStream, client: SocketAddr) {
        let Ok(mut connection) = Connection::new(stream) else {
            return;
        };
        if self.connections.load(Ordering::Relaxed) >= CONNECTIONS {
            let error = HttpError::busy("there are too many connections");
            return self.refuse(&mut connection, client, None, Instant::now(), &error);
        }
        let (host, counted) = (Arc::clone(self), Counted::new(&self.connections));
        let talk = move || {
            host.converse(connection, client);
            drop(counted);
        };
        // Without a thread to spare, the connection goes with the closure.
        if let Err(error) = spawn(talk) {
            note(format_args!("microgpt: warning: {error:#}"));
        }
    }

    /// Answers the requests of a connection, one after the other.
    fn converse(&self, mut connection: Connection<TcpStream>, client: SocketAddr) {
        loop {
            let head = match connection.read_head() {
                Ok(head) => head,
                Err(ReadError::Ended) => return,
                Err(ReadError::Refused(error)) => {
                    self.refuse(&mut connection, client, None, Instant::now(), &error);
                    return connection.end();
                }
            };
            let arrived = Instant::now();
            let body = match connection.read_body(&head) {
                Ok(body) => body,
                Err(ReadError::Ended) => return,
                Err(ReadError::Refused(error)) => {
                    self.refuse(&mut connection, client, Some(&head), arrived, &error);
                    return connection.end();
                }
            };
            let under_way = Counted::new(&self.under_way);
            let last = !head.keeps_alive() || self.stopping.load(Ordering::Relaxed);
            let (status, sent) = self.answer(&mut connection, &head, &body, last);
            self.log(client, Some(&head), status, arrived);
            drop(under_way);
            if last || !sent {
                return connection.end();
            }
        }
    }

    /// Answers a request. Returns the status, and whether the client took all of the answer.
    fn answer(
        &self,
        connection: &mut Connection<TcpStream>,
        head: &Head,
        body: &[u8],
        last: bool,
    ) -> (u16, bool) {
        let mut send = |answer: Response| {
            let sent = connection.write(&answer, Some(head), last);
            (answer.status, sent.is_ok())
        };
        let refusal = |error: HttpError| Response::error(&error, is_openai(&head.path));
        if let Some(answer) = answer_operator(&self.app, head) {
            return send(answer);
        }
        if self.stopping.load(Ordering::Relaxed) {
            return send(refusal(HttpError::busy("the server is stopping")));
        }
        let Some(turn) = self.admission.wait(&self.app.metrics) else {
            return send(refusal(HttpError::busy("too many requests are waiting")));
        };
        // A panic itself was reported on stderr by the thread that it happened on.
        let failed = |_| Err(HttpError::new(500, "the server failed; its log says more"));
        let routed = catch_unwind(AssertUnwindSafe(|| route(&self.app, head, body)));
        let answer = match routed.unwrap_or_else(failed) {
            Ok(Reply::Events(events)) => return self.stream(connection, head, last, events),
            Ok(Reply::Whole(answer)) => answer,
            Err(error) => refusal(error),
        };
        // Others need not wait until the client has read it.
        drop(turn);
        send(answer)
    }

    /// Sends events, each as soon as it is there; a client that hangs up ends them.
    fn stream(
        &self,
        connection: &mut Connection<TcpStream>,
        head: &Head,
        last: bool,
        events: Events,
    ) -> (u16, bool) {
        let sent = catch_unwind(AssertUnwindSafe(|| {
            connection.write_events(head, last, |send| events.send(&self.app, send))
        }));
        // 499 is what servers log for a client that went away.
        match sent {
            Ok(Ok(())) => (200, true),
            Ok(Err(_)) => (499, false),
            Err(_) => (500, false),
        }
    }

    /// Tells a client why its request is not read.
    fn refuse(
        &self,
        connection: &mut Connection<TcpStream>,
        client: SocketAddr,
        head: Option<&Head>,
        arrived: Instant,
        error: &HttpError,
    ) {
        let openai = head.is_some_and(|head| is_openai(&head.path));
        let answer = Response::error(error, openai);
        // A client that is gone needs no answer.
        let _ = connection.write(&answer, head, true);
        self.log(client, head, answer.status, arrived);
    }

    /// Counts a request, and writes the line of the access log.
    fn log(&self, client: SocketAddr, head: Option<&Head>, status: u16, arrived: Instant) {
        let duration = arrived.elapsed();
        let (method, path) = head.map_or(("-", "-"), |head| (&head.method, &head.path));
        let metrics = &self.app.metrics;
        metrics.count(endpoint(path), status, duration);
        if !self.quiet {
            let milliseconds = duration.as_secs_f64() * 1000.0;
            note(format_args!(
                "{client} {method} {path:?} {status} {milliseconds:.1}ms"
            ));
        }
    }
}

fn note(line: std::fmt::Arguments) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use serde_json::json;

    use super::*;
    use crate::data::Corpus;
    use crate::model::{ModelConfig, ModelMeta, initial_weights};

    /// The status of an answer to a request for a path.
    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.lines().next().unwrap_or_default().to_string()
    }

    #[test]
    fn a_panic_is_answered_and_costs_no_worker() {
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
        };
        let server = Server::bind(options, model, json!({})).unwrap();
        let address = server.address().unwrap();
        static STOP: AtomicBool = AtomicBool::new(false);
        let running = thread::spawn(|| server.run(&STOP));
        for _ in 0..5 {
            assert_eq!(get(address, "/panic"), "HTTP/1.1 500 Internal Server Error");
        }
        assert_eq!(get(address, "/v1/models"), "HTTP/1.1 200 OK");
        STOP.store(true, Ordering::Relaxed);
        running.join().unwrap().unwrap();
    }
}
