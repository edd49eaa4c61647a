//! Concurrent streaming clients of `microgpt serve`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// The measurements of all clients.
pub struct Served {
    /// Prompt and generated tokens of all clients per second.
    pub tokens_per_second: f64,
    /// Seconds to the first token, per client.
    pub first_token: Vec<f64>,
}

impl Served {
    pub fn mean_first_token(&self) -> f64 {
        self.first_token.iter().sum::<f64>() / self.first_token.len() as f64
    }

    pub fn last_first_token(&self) -> f64 {
        self.first_token.iter().copied().fold(0.0, f64::max)
    }
}

/// Starts a server and `clients` clients, each of which requests a completion that fills the context.
pub fn serve(server: Command, clients: usize, context: usize) -> Served {
    let (mut server, address) = start(server);
    // The first requests allocate memory that later ones reuse: warm up.
    request_concurrently(&address, clients, context);
    let served = request_concurrently(&address, clients, context);
    server.kill().expect("the server is running");
    server.wait().expect("the server ends");
    served
}

/// Starts a server and counts the samples that `clients` kept-alive connections get from it, one per
/// request, per second.
pub fn requests_per_second(server: Command, clients: usize) -> f64 {
    const DURATION: Duration = Duration::from_secs(3);
    let (mut server, address) = start(server);
    let end = Instant::now() + DURATION;
    let client = || {
        let connection = TcpStream::connect(&address).expect("the server listens");
        let mut responses = BufReader::new(&connection);
        let mut count = 0;
        while Instant::now() < end {
            (&connection)
                .write_all(SAMPLE_REQUEST)
                .expect("the server reads");
            read_response(&mut responses);
            count += 1;
        }
        count
    };
    let count: u32 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        let counts = clients.into_iter().map(|client| client.join());
        counts
            .map(|count| count.expect("the client does not panic"))
            .sum()
    });
    server.kill().expect("the server is running");
    server.wait().expect("the server ends");
    f64::from(count) / DURATION.as_secs_f64()
}

const SAMPLE_REQUEST: &[u8] = b"POST /microgpt/v1/generate HTTP/1.1\r\nHost: localhost\r\n\
    Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

fn read_response(connection: &mut impl BufRead) {
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        connection
            .read_line(&mut line)
            .expect("the server responds");
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().expect("a number");
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    connection
        .read_exact(&mut body)
        .expect("the server responds");
    assert!(body.starts_with(b"{\"samples\":["), "a sample");
}

fn start(mut server: Command) -> (Child, String) {
    server.args(["--port", "0", "--quiet"]);
    let mut child = server
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut line = String::new();
    let errors = child.stderr.take().expect("stderr is piped");
    BufReader::new(errors)
        .read_line(&mut line)
        .expect("the server prints its address");
    let address = line.trim().strip_prefix("listening on http://");
    (child, address.expect("the server listens").to_string())
}

fn request_concurrently(address: &str, clients: usize, context: usize) -> Served {
    let begin = Barrier::new(clients + 1);
    std::thread::scope(|scope| {
        let client = |seed| {
            let begin = &begin;
            scope.spawn(move || request(address, context, seed, begin))
        };
        let clients_running: Vec<_> = (0..clients).map(client).collect();
        begin.wait();
        let start = Instant::now();
        let first_token = clients_running
            .into_iter()
            .map(|client| client.join().expect("the client does not panic"));
        Served {
            first_token: first_token.collect(),
            tokens_per_second: (clients * context) as f64 / start.elapsed().as_secs_f64(),
        }
    })
}

/// Reads a streamed completion to its end and returns the seconds to its first token.
fn request(address: &str, context: usize, seed: usize, begin: &Barrier) -> f64 {
    let prompt = "abcdefgh".repeat(context / 64);
    let max_tokens = context - prompt.len();
    let body = format!(
        r#"{{"prompt": "{prompt}", "max_tokens": {max_tokens}, "stream": true, "seed": {seed}}}"#
    );
    let mut connection = TcpStream::connect(address).expect("the server listens");
    begin.wait();
    let start = Instant::now();
    write!(
        connection,
        "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("the server reads");
    let (mut first, mut characters) = (None, 0);
    for line in BufReader::new(connection).lines() {
        let line = line.expect("the server responds");
        let Some(event) = line.strip_prefix("data: {") else {
            continue;
        };
        let event: serde_json::Value =
            serde_json::from_str(&format!("{{{event}")).expect("an event is JSON");
        let text = event["choices"][0]["text"]
            .as_str()
            .expect("an event has text");
        characters += text.chars().count();
        if !text.is_empty() {
            first.get_or_insert_with(|| start.elapsed().as_secs_f64());
        }
    }
    // One character is one token.
    assert_eq!(characters, max_tokens, "the text is complete");
    first.expect("a token arrives")
}
