//! Connections, the queue, and the workers.
//!
//! tiny_http makes a thread for each connection, which reads a request's head and, if it is small,
//! its body. What it lacks is bounded from outside: time-outs are set on the listening socket, from
//! which Linux hands them down to every connection, and the queue to the workers is ours.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tiny_http::{HTTPVersion, Method, Request};

use super::api::{self, App};
use super::body;
use super::engine::Engine;
use super::http::{Answer, HttpError};
use super::metrics::Metrics;
use super::openai::{self, Completion, Events};
use super::page;
use crate::model::InferenceGpt;

/// A client that sends or takes no byte for so long is cut off.
const IDLE: Duration = Duration::from_secs(10);

/// How long requests under way may take to end after the server was asked to stop.
const GRACE: Duration = Duration::from_secs(10);

/// How long a load counts as beginning, in [`keep_awake`].
const BEGINNING: Duration = Duration::from_millis(500);

/// How many requests may wait: so many for each that is being answered, and not fewer than these.
const QUEUE_PER_WORKER: usize = 8;
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
    app: Arc<App>,
    options: ServeOptions,
}

impl Server {
    /// Listens. `info` is what `GET /microgpt/v1/info` answers. Errors where the address can't be
    /// had.
    pub fn bind(options: ServeOptions, model: Arc<InferenceGpt>, info: Value) -> Result<Self> {
        let address = (options.host.as_str(), options.port);
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {}:{}", options.host, options.port))?;
        let socket = socket2::SockRef::from(&listener);
        socket.set_read_timeout(Some(IDLE))?;
        socket.set_write_timeout(Some(IDLE))?;
        socket.set_tcp_nodelay(true)?;
        let metrics = Arc::new(Metrics::default());
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let engine = Engine::start(
            Arc::clone(&model),
            Arc::clone(&metrics),
            options.threads.min(cores),
        )?;
        let app = Arc::new(App {
            model,
            info,
            metrics,
            engine,
            started: api::seconds_since_1970(),
        });
        Ok(Self {
            listener,
            app,
            options,
        })
    }

    /// The address that it listens on.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers requests until `stop` is set, and then those under way.
    pub fn run(self, stop: &AtomicBool) -> Result<()> {
        let threads = self.options.threads;
        let (queue, jobs) = sync_channel((threads * QUEUE_PER_WORKER).max(LEAST_QUEUE));
        let jobs = Arc::new(Mutex::new(jobs));
        let address = self.address()?;
        let dispatcher = Arc::new(Dispatcher {
            listener: self.listener,
            app: self.app,
            queue,
            quiet: self.options.quiet,
            draining: AtomicBool::new(false),
            start: Instant::now(),
            last_request: AtomicU64::new(0),
            waker: OnceLock::new(),
        });
        for _ in 0..threads {
            let (dispatcher, jobs) = (Arc::clone(&dispatcher), Arc::clone(&jobs));
            spawn(move || dispatcher.work(&jobs))?;
        }
        dispatcher.accept()?;
        let awake = Arc::clone(&dispatcher);
        spawn(move || keep_awake(address, &awake))?;
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
        dispatcher.drain();
        Ok(())
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .spawn(run)
        .context("cannot start a thread")?;
    Ok(())
}

/// Connects now and then, for two faults of tiny_http that a new connection mends.
///
/// The read time-out of the listening socket holds for `accept` too, and tiny_http takes an
/// `accept` that timed out for the end. And of connections that come at the same moment, it may
/// count on one idle thread for several, and leave some waiting until the next one comes.
fn keep_awake(address: SocketAddr, dispatcher: &Dispatcher) {
    // The first request after a while wakes this thread.
    let _ = dispatcher.waker.set(thread::current());
    let (mut last, mut busy_since) = (Instant::now(), None);
    loop {
        if dispatcher.is_idle() {
            busy_since = None;
            thread::park_timeout(IDLE / 3);
        } else {
            // Many connections come at once when a load begins, so the first moments matter most.
            let beginning = busy_since.get_or_insert_with(Instant::now).elapsed() < BEGINNING;
            thread::sleep(Duration::from_millis(if beginning { 1 } else { 5 }));
        }
        if !dispatcher.is_idle() || last.elapsed() >= IDLE / 3 {
            last = Instant::now();
            if let Ok(stream) = TcpStream::connect_timeout(&address, IDLE) {
                // Closed without the wait that a port is kept for otherwise.
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
        }
    }
}

/// A request whose body is there.
struct Job {
    request: Request,
    body: Vec<u8>,
    arrived: Instant,
}

/// Hands requests from tiny_http to the workers.
struct Dispatcher {
    listener: TcpListener,
    app: Arc<App>,
    queue: SyncSender<Job>,
    quiet: bool,
    draining: AtomicBool,
    start: Instant,
    /// When the last request came, in milliseconds since the start.
    last_request: AtomicU64,
    /// The thread to wake when requests come after a while without.
    waker: OnceLock<thread::Thread>,
}

impl Dispatcher {
    /// Accepts connections on a thread of its own, and takes requests from them on another.
    fn accept(self: &Arc<Self>) -> Result<()> {
        let listener = self.listener.try_clone()?;
        let server = tiny_http::Server::from_listener(listener, None)
            .map_err(|error| anyhow::anyhow!("cannot accept connections: {error}"))?;
        let dispatcher = Arc::clone(self);
        spawn(move || {
            loop {
                match server.recv() {
                    Ok(request) => dispatcher.dispatch(request),
                    // tiny_http accepts no more after an error, such as too many open files. The
                    // connections it has go on, and another takes the new ones.
                    Err(error) => {
                        note(format_args!(
                            "microgpt: warning: cannot accept a connection: {error}"
                        ));
                        while dispatcher.accept().is_err() {
                            thread::sleep(Duration::from_millis(100));
                        }
                    }
                }
            }
        })
    }

    /// Whether no request has come for a while.
    fn is_idle(&self) -> bool {
        let now = self.start.elapsed().as_millis() as u64;
        now.saturating_sub(self.last_request.load(Ordering::Relaxed)) > 2000
    }

    /// Queues a request, refuses it, or answers it at once if an operator asks.
    fn dispatch(self: &Arc<Self>, mut request: Request) {
        let arrived = Instant::now();
        let was_idle = self.is_idle();
        let now = (arrived - self.start).as_millis() as u64;
        self.last_request.store(now, Ordering::Relaxed);
        if let (true, Some(thread)) = (was_idle, self.waker.get()) {
            thread.unpark();
        }
        if let Some(answer) = self.answer_operator(&request) {
            return self.respond(request, arrived, answer);
        }
        let dispatcher = Arc::clone(self);
        let may_block = body::may_block(&request);
        // A request that is refused before its body was read is finished here too: tiny_http reads
        // the rest of the body before it lets go of it, however slowly that comes.
        let take = move || match body::read(&mut request) {
            Ok(body) => dispatcher.enqueue(Job {
                request,
                body,
                arrived,
            }),
            Err(error) => dispatcher.refuse(request, arrived, &error),
        };
        if !may_block {
            take();
        } else if let Err(error) = spawn(take) {
            // Without a thread to spare, the request goes with the closure, which answers it.
            note(format_args!("microgpt: warning: {error:#}"));
        }
    }

    /// What operators ask for has to work when nothing else does.
    fn answer_operator(&self, request: &Request) -> Option<Answer> {
        let get = matches!(request.method(), Method::Get | Method::Head);
        match path(request) {
            "/healthz" if get => Some(Answer::json(&json!({ "status": "ok" }))),
            "/metrics" if get => Some(Answer::new(
                "text/plain; version=0.0.4; charset=utf-8",
                self.app.metrics.render(),
            )),
            _ => None,
        }
    }

    fn enqueue(&self, job: Job) {
        let queued = &self.app.metrics.queued;
        queued.fetch_add(1, Ordering::Relaxed);
        let refused = if self.draining.load(Ordering::Relaxed) {
            Some((job, "the server is stopping"))
        } else {
            match self.queue.try_send(job) {
                Ok(()) => None,
                Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                    Some((job, "too many requests are waiting"))
                }
            }
        };
        if let Some((job, reason)) = refused {
            queued.fetch_sub(1, Ordering::Relaxed);
            self.refuse(job.request, job.arrived, &HttpError::busy(reason));
        }
    }

    fn refuse(&self, request: Request, arrived: Instant, error: &HttpError) {
        let answer = Answer::error(error, is_openai(path(&request)));
        self.respond(request, arrived, answer);
    }

    /// A worker's life.
    fn work(&self, jobs: &Mutex<Receiver<Job>>) {
        let metrics = &self.app.metrics;
        loop {
            let job = jobs.lock().unwrap_or_else(|e| e.into_inner()).recv();
            let Ok(job) = job else { return };
            metrics.in_progress.fetch_add(1, Ordering::Relaxed);
            metrics.queued.fetch_sub(1, Ordering::Relaxed);
            self.answer(job);
            metrics.in_progress.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn answer(&self, job: Job) {
        let Job {
            request,
            body,
            arrived,
        } = job;
        let completion = catch_unwind(AssertUnwindSafe(|| route(&self.app, &request, &body)));
        match completion {
            Ok(Ok(Completion::Whole(answer))) => self.respond(request, arrived, answer),
            Ok(Ok(Completion::Events(events))) => self.stream(request, arrived, events),
            Ok(Err(error)) => self.refuse(request, arrived, &error),
            // The panic itself was reported on stderr by the thread that it happened on.
            Err(_) => {
                let error = HttpError::new(500, "the server failed; its log says more");
                self.refuse(request, arrived, &error);
            }
        }
    }

    fn respond(&self, request: Request, arrived: Instant, answer: Answer) {
        let (entry, status) = (Entry::of(&request), answer.status);
        // A client that is gone needs no answer.
        let _ = answer.send(request);
        self.log(&entry, status, arrived);
    }

    /// Sends events, each as soon as it is there; a client that hangs up ends them.
    fn stream(&self, request: Request, arrived: Instant, events: Events) {
        let entry = Entry::of(&request);
        let chunked = *request.http_version() > HTTPVersion(1, 0);
        let mut writer = request.into_writer();
        let sent = catch_unwind(AssertUnwindSafe(|| {
            writer.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n",
            )?;
            let head: &[u8] = if chunked {
                b"Transfer-Encoding: chunked\r\n\r\n"
            } else {
                b"\r\n"
            };
            writer.write_all(head)?;
            events.send(&self.app, |event| {
                let event = format!("data: {event}\n\n");
                if chunked {
                    write!(writer, "{:x}\r\n{event}\r\n", event.len())?;
                } else {
                    writer.write_all(event.as_bytes())?;
                }
                // tiny_http's own chunks would wait for company; each of ours goes at once.
                writer.flush()
            })?;
            if chunked {
                writer.write_all(b"0\r\n\r\n").and_then(|()| writer.flush())
            } else {
                Ok(())
            }
        }));
        // 499 is what servers log for a client that went away.
        let status = match sent {
            Ok(Ok(())) => 200,
            Ok(Err(_)) => 499,
            Err(_) => 500,
        };
        self.log(&entry, status, arrived);
    }

    fn log(&self, entry: &Entry, status: u16, arrived: Instant) {
        let duration = arrived.elapsed();
        self.app
            .metrics
            .count(endpoint(&entry.path), status, duration);
        if !self.quiet {
            let milliseconds = duration.as_secs_f64() * 1000.0;
            let Entry {
                client,
                method,
                path,
            } = entry;
            note(format_args!(
                "{client} {method} {path:?} {status} {milliseconds:.1}ms"
            ));
        }
    }

    /// Refuses what is new, and waits for what is under way.
    fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let metrics = &self.app.metrics;
        let busy = || {
            metrics.in_progress.load(Ordering::Relaxed) + metrics.queued.load(Ordering::Relaxed) > 0
        };
        let start = Instant::now();
        while busy() && start.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What the access log says of a request.
struct Entry {
    client: String,
    method: String,
    path: String,
}

impl Entry {
    fn of(request: &Request) -> Self {
        Self {
            client: request
                .remote_addr()
                .map_or("-".to_string(), SocketAddr::to_string),
            method: request.method().to_string(),
            path: path(request).to_string(),
        }
    }
}

fn note(line: std::fmt::Arguments) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The path that a request asks for, without its query.
fn path(request: &Request) -> &str {
    let url = request.url();
    url.split_once('?').map_or(url, |(path, _)| path)
}

fn is_openai(path: &str) -> bool {
    path.starts_with("/v1/")
}

/// The endpoints, with the methods that they take.
const ENDPOINTS: [(&str, &str); 9] = [
    ("/", "GET, HEAD"),
    ("/microgpt/v1/generate", "POST"),
    ("/microgpt/v1/chat", "POST"),
    ("/microgpt/v1/info", "GET, HEAD"),
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/models", "GET, HEAD"),
    ("/healthz", "GET, HEAD"),
    ("/metrics", "GET, HEAD"),
];

/// What the metrics call the endpoint of a path.
fn endpoint(path: &str) -> &'static str {
    if path.starts_with("/v1/models/") {
        return "/v1/models";
    }
    ENDPOINTS
        .iter()
        .find(|(known, _)| *known == path)
        .map_or("other", |(known, _)| known)
}

/// Finds the endpoint of a request, and lets it answer.
fn route(app: &App, request: &Request, body: &[u8]) -> Result<Completion, HttpError> {
    let path = path(request);
    let name = endpoint(path);
    #[cfg(test)]
    assert_ne!(path, "/panic", "as a handler that fails does");
    let Some((_, methods)) = ENDPOINTS.iter().find(|(known, _)| *known == name) else {
        return Err(HttpError::new(404, format!("there is nothing at {path:?}")));
    };
    let method = request.method().to_string();
    if !methods.split(", ").any(|known| known == method) {
        return Err(HttpError {
            header: Some(("Allow", methods)),
            ..HttpError::new(405, format!("{name} takes {methods}, not {method}"))
        });
    }
    if *methods == "POST" {
        check_content_type(request)?;
    }
    match name {
        "/" => Ok(Completion::Whole(page::page())),
        "/v1/chat/completions" => openai::chat_completions(app, body),
        "/v1/completions" => openai::completions(app, body),
        "/v1/models" => {
            openai::models(app, path.strip_prefix("/v1/models/")).map(Completion::Whole)
        }
        "/microgpt/v1/generate" => api::generate(app, body).map(Completion::Whole),
        "/microgpt/v1/chat" => api::chat(app, body).map(Completion::Whole),
        _ => Ok(Completion::Whole(Answer::json(&app.info))),
    }
}

/// Bodies are JSON; a request that says nothing of its body's type is believed to know that.
fn check_content_type(request: &Request) -> Result<(), HttpError> {
    let header = request
        .headers()
        .iter()
        .find(|header| header.field.equiv("Content-Type"));
    let Some(header) = header else { return Ok(()) };
    let value = header.value.as_str();
    let kind = value.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(HttpError::new(
        415,
        format!("the body must be application/json, got {value}"),
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

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
