//! Many clients of `microgpt serve` at once, each of which reads a stream of text.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::Instant;

/// What the clients saw.
pub struct Served {
    /// Of prompts and of what was made, over all clients.
    pub tokens_per_second: f64,
    /// Seconds to the first token, of each client.
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

/// Lets so many clients ask a server for the text that fills a context, all at the same moment.
pub fn serve(server: Command, clients: usize, context: usize) -> Served {
    let (mut server, address) = start(server);
    // The first texts find no memory to use again; users don't meet a server that has just started.
    ask_together(&address, clients, context);
    let served = ask_together(&address, clients, context);
    server.kill().expect("the server runs until it is stopped");
    server.wait().expect("the server ends");
    served
}

fn start(mut server: Command) -> (Child, String) {
    server.args(["--port", "0", "--quiet"]);
    let mut child = server.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let errors = child.stderr.take().expect("it is piped");
    BufReader::new(errors)
        .read_line(&mut line)
        .expect("it says where it listens");
    let address = line.trim().strip_prefix("listening on http://");
    (child, address.expect("it listens").to_string())
}

fn ask_together(address: &str, clients: usize, context: usize) -> Served {
    let begin = Barrier::new(clients + 1);
    std::thread::scope(|scope| {
        let client = |seed| {
            let begin = &begin;
            scope.spawn(move || ask(address, context, seed, begin))
        };
        let asked: Vec<_> = (0..clients).map(client).collect();
        begin.wait();
        let start = Instant::now();
        let first_token = asked
            .into_iter()
            .map(|client| client.join().expect("it is served"));
        Served {
            first_token: first_token.collect(),
            tokens_per_second: (clients * context) as f64 / start.elapsed().as_secs_f64(),
        }
    })
}

/// Reads a streamed completion to its end, and gives the seconds to its first token.
fn ask(address: &str, context: usize, seed: usize, begin: &Barrier) -> f64 {
    let prompt = "abcdefgh".repeat(context / 64);
    let most = context - prompt.len();
    let body = format!(
        r#"{{"prompt": "{prompt}", "max_tokens": {most}, "stream": true, "seed": {seed}}}"#
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
        let line = line.expect("the server answers");
        let Some(event) = line.strip_prefix("data: {") else {
            continue;
        };
        let event: serde_json::Value =
            serde_json::from_str(&format!("{{{event}")).expect("an event is JSON");
        let text = event["choices"][0]["text"].as_str().expect("there is text");
        characters += text.chars().count();
        if !text.is_empty() {
            first.get_or_insert_with(|| start.elapsed().as_secs_f64());
        }
    }
    // One character is one token.
    assert_eq!(characters, most, "the text is complete");
    first.expect("there was a token")
}
