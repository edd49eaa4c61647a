//! `microgpt serve`, over connections to a loopback port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{
    chat_model_dir, microgpt, run_in, run_with_stdin, send_signal, text_model_dir,
};

/// A running server; killed on drop.
pub struct Server {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    address: String,
}

impl Server {
    pub fn start(dir: &std::path::Path, options: &str) -> Self {
        let mut child = microgpt()
            .current_dir(dir)
            .env("MODEL_DIR", "model")
            .env("PORT", "0")
            .env("TMPDIR", dir)
            .args(["serve", "--allow-host", "x"])
            .args(options.split_whitespace())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let address = line
            .trim()
            .strip_prefix("listening on http://")
            .expect(&line)
            .to_string();
        Self {
            child,
            stderr,
            address,
        }
    }

    /// The process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }

    /// Sends a request and reads the complete response.
    pub fn send(&self, request: &str) -> Response {
        let mut stream = self.connect();
        // The server may close before it has read all of a rejected request.
        let _ = stream.write_all(request.as_bytes());
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        Response::parse(&String::from_utf8(bytes).unwrap())
    }

    pub fn get(&self, path: &str) -> Response {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ))
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.send(&post(path, &body.to_string()))
    }

    /// The value of a metric.
    fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        line.expect(&text)
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }

    fn signal(&self, signal: &str) {
        send_signal(signal, &self.child);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .expect(text);
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked {
            unchunk(body)
        } else {
            body.to_string()
        };
        Self {
            status,
            head: head.to_string(),
            body,
        }
    }

    #[track_caller]
    pub fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        serde_json::from_str(&self.body).expect(&self.body)
    }
}

fn unchunk(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body += &rest[..size];
        text = &rest[size + 2..];
    }
    body
}

#[test]
fn served_samples_match_generate() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "");
    let path = "/microgpt/v1/generate";
    let cli = |options: &str| -> Vec<String> {
        let output = run_in(dir.path(), &format!("generate -m model {options}")).ok();
        output.stdout.lines().map(str::to_string).collect()
    };
    assert_eq!(
        server.post(path, &json!({})).json(200),
        json!({ "samples": cli("-n 1") })
    );
    let body = json!({ "num_samples": 7, "seed": 5, "temperature": 1.5, "top_k": 9, "top_p": 0.9,
        "min_p": 0.01, "prompt": "a", "max_tokens": 6 });
    let expected = cli(
        "-n 7 --seed 5 --temperature 1.5 --top-k 9 --top-p 0.9 --min-p 0.01 --prompt a --max-tokens 6",
    );
    assert_eq!(
        server.post(path, &body).json(200),
        json!({ "samples": expected })
    );
    let many = server.post(path, &json!({ "num_samples": 1000 })).json(200);
    assert_eq!(
        many,
        json!({ "samples": cli("-n 50") }),
        "more than 50 gives 50"
    );
}

#[test]
fn concurrent_requests_match_sequential_requests() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "--quiet");
    let body = |seed: usize| {
        let prompt = ["", "e", "ma"][seed % 3];
        json!({ "num_samples": 1 + seed % 7, "seed": seed, "prompt": prompt, "temperature": 1 })
    };
    let path = "/microgpt/v1/generate";
    let alone: Vec<String> = (0..24)
        .map(|seed| server.post(path, &body(seed)).body)
        .collect();
    assert!(
        alone
            .iter()
            .all(|response| response.starts_with("{\"samples\":[\""))
    );
    let server = &server;
    std::thread::scope(|scope| {
        let ask = |seed: usize| move || server.post(path, &body(seed)).body;
        let together: Vec<_> = (0..96).map(|i| scope.spawn(ask(i % 24))).collect();
        for (i, response) in together.into_iter().enumerate() {
            assert_eq!(response.join().unwrap(), alone[i % 24]);
        }
    });
}

#[test]
fn served_reply_matches_chat() {
    let dir = chat_model_dir();
    let server = Server::start(dir.path(), "");
    let path = "/microgpt/v1/chat";
    let reply = run_with_stdin(dir.path(), "chat -m model --max-tokens 20", b"hello\n")
        .ok()
        .stdout;
    let messages = json!([{ "role": "user", "content": "hello" }]);
    let response = server
        .post(path, &json!({ "messages": messages, "max_tokens": 20 }))
        .json(200);
    let expected = json!({ "role": "assistant", "content": reply.trim_end_matches('\n'), "tokens_dropped": 0 });
    assert_eq!(response, expected);
    // 36 of 48 tokens are for the prompt: the first turn of 14 tokens is dropped, then the second.
    let messages = json!([
        { "role": "user", "content": "hello hello." },
        { "role": "assistant", "content": "hello!" },
        { "role": "user", "content": "how are you today, then?" },
    ]);
    let response = server
        .post(path, &json!({ "messages": messages }))
        .json(200);
    assert_eq!(response["tokens_dropped"], 14);
}

#[test]
fn invalid_requests_get_status_and_message() {
    let text = text_model_dir();
    let server = Server::start(text.path(), "");
    let generate = "/microgpt/v1/generate";
    let cases = [
        (
            json!({ "temperature": -0.5 }),
            "temperature must be >= 0, got -0.5",
        ),
        (
            json!({ "temperature": "hot" }),
            "temperature must be a number, got \"hot\"",
        ),
        (
            json!({ "num_samples": 0 }),
            "num_samples must be a whole number >= 1, got 0",
        ),
        (
            json!({ "num_samples": 1.5 }),
            "num_samples must be a whole number >= 1, got 1.5",
        ),
        (json!({ "max_tokens": 0 }), "max_tokens must be >= 1, got 0"),
        (json!({ "top_p": 2 }), "top_p must be > 0 and <= 1, got 2"),
        (
            json!({ "top_k": -2 }),
            "top_k must be a whole number >= 1, got -2",
        ),
        (
            json!({ "seed": "x" }),
            "seed must be a whole number, got \"x\"",
        ),
        (
            json!({ "prompt": "A" }),
            "the prompt has characters that the model doesn't know: 'A'",
        ),
        (json!([]), "the body is not a JSON object"),
    ];
    for (body, expected) in cases {
        assert_eq!(
            server.post(generate, &body).json(400),
            json!({ "error": expected })
        );
    }
    let error = server.post(generate, &json!({ "temprature": 1 })).json(400);
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .starts_with("unknown field \"temprature\"; the known fields are")
    );
    let error = server.send(&post(generate, "{")).json(400);
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .starts_with("the body is not valid JSON")
    );

    let chat = json!({ "messages": [{ "role": "user", "content": "a" }] });
    let error = server.post("/microgpt/v1/chat", &chat).json(400);
    assert!(
        error["error"].as_str().unwrap().contains("train --chat"),
        "{error}"
    );
    let error = server.post("/v1/chat/completions", &chat).json(400);
    assert_eq!(error["error"]["type"], "invalid_request_error");
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .contains("train --chat"),
        "{error}"
    );

    let chat_model = chat_model_dir();
    let server = Server::start(chat_model.path(), "");
    let cases = [
        (json!({}), "messages is missing"),
        (json!({ "messages": [] }), "messages is empty"),
        (json!({ "messages": "hi" }), "messages must be an array"),
        (
            json!({ "messages": [{ "role": "user" }] }),
            "messages[0].content must be a string or an array of text parts, got null",
        ),
        (
            json!({ "messages": [{ "role": "tool", "content": "" }] }),
            "messages[0].role must be system, user or assistant",
        ),
    ];
    for (body, expected) in cases {
        let error = server.post("/microgpt/v1/chat", &body).json(400);
        assert!(
            error["error"].as_str().unwrap().starts_with(expected),
            "{error}"
        );
    }
}

#[test]
fn http_methods_headers_and_keep_alive() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "");
    assert_eq!(server.get("/healthz").json(200), json!({ "status": "ok" }));
    let info: Value =
        serde_json::from_str(&run_in(dir.path(), "info -m model --json").ok().stdout).unwrap();
    assert_eq!(server.get("/microgpt/v1/info").json(200), info);
    assert_eq!(server.get("/nothing").status, 404);
    let wrong = server.get("/microgpt/v1/generate");
    assert!(
        wrong.status == 405 && wrong.head.contains("Allow: POST"),
        "{}",
        wrong.head
    );
    let head = server.send("HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let bare =
        server.send("POST /microgpt/v1/generate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(bare.status, 411);
    let form = post("/microgpt/v1/generate", "{}").replace("application/json", "text/plain");
    assert_eq!(server.send(&form).status, 415);
    let untyped = post("/microgpt/v1/generate", "{}").replace("Content-Type: ", "X: ");
    let error = server.send(&untyped).json(415);
    assert_eq!(
        error["error"],
        "the request has no Content-Type; it must be application/json"
    );
    let compressed = post("/microgpt/v1/generate", "{}")
        .replace("Content-Type", "Content-Encoding: gzip\r\nContent-Type");
    let error = server.send(&compressed).json(415);
    assert_eq!(
        error["error"],
        "Content-Encoding must be identity, got \"gzip\""
    );
    let huge =
        post("/microgpt/v1/generate", "{}").replace("Content-Length: 2", "Content-Length: 1048577");
    let mut stream = server.connect();
    stream.write_all(huge.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    assert!(
        line.starts_with("HTTP/1.1 413"),
        "refused before the body is sent: {line}"
    );
    let padded = json!({ "prompt": "a", "seed": 1 }).to_string() + &" ".repeat(100_000);
    assert_eq!(
        server.send(&post("/microgpt/v1/generate", &padded)).status,
        200
    );
    let chunked = "POST /microgpt/v1/generate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                   Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    assert_eq!(server.send(chunked).status, 200);

    // Two requests on one connection.
    let mut stream = server.connect();
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request.repeat(2).as_bytes()).unwrap();
    let mut responses = String::new();
    while responses.matches("{\"status\":\"ok\"}").count() < 2 {
        let mut part = [0; 1024];
        let count = stream.read(&mut part).unwrap();
        assert!(count > 0, "{responses}");
        responses += std::str::from_utf8(&part[..count]).unwrap();
    }
    let metrics = server.get("/metrics").body;
    assert!(
        metrics.contains(
            "microgpt_requests_total{endpoint=\"/microgpt/v1/generate\",status=\"200\"} 2"
        ),
        "{metrics}"
    );
}

#[test]
fn many_connections_at_once_are_all_answered() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "--quiet");
    let mut streams: Vec<TcpStream> = (0..64).map(|_| server.connect()).collect();
    let request = post("/microgpt/v1/generate", "{}").replace("Connection: close\r\n", "");
    for stream in &mut streams {
        stream.write_all(request.as_bytes()).unwrap();
    }
    // All connections are open until the last response.
    for stream in &streams {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    }
}

/// The lines of the kernel's table of Unix sockets about a server's named ones.
#[cfg(target_os = "linux")]
fn named_unix_sockets(server: &Server) -> Vec<String> {
    let fds = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let links = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let sockets: Vec<String> = links.map(|link| link.display().to_string()).collect();
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    let is_own = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns.len() == 8 && sockets.contains(&format!("socket:[{}]", columns[6]))
    };
    table.lines().filter(is_own).map(str::to_string).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn private_socket_is_unreachable_after_the_start() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};

    let dir = text_model_dir();
    let server = Server::start(dir.path(), "--threads 3");
    assert_eq!(server.get("/healthz").status, 200);
    let start = Instant::now();
    // tiny_http closes the listening socket in a thread of its own.
    while named_unix_sockets(&server)
        .iter()
        .any(|line| line.contains(" 00010000 "))
    {
        assert!(start.elapsed() < Duration::from_secs(20), "still listening");
        std::thread::sleep(Duration::from_millis(10));
    }
    let lanes = named_unix_sockets(&server);
    assert_eq!(lanes.len(), 4, "{lanes:?}");
    let name = lanes[0].rsplit('@').next().unwrap();
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let error = UnixStream::connect_addr(&address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    // TMPDIR has the model alone.
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(server.post("/microgpt/v1/generate", &json!({})).status, 200);
}

#[test]
fn web_page_loads_only_its_own_files() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "");
    let page = server.get("/");
    let policy =
        "Content-Security-Policy: default-src 'none'; style-src 'self'; script-src 'self';";
    assert!(page.head.contains(policy), "{}", page.head);
    for (file, content_type) in [("style.css", "text/css"), ("script.js", "text/javascript")] {
        assert!(page.body.contains(&format!("\"{file}\"")), "{file}");
        let response = server.get(&format!("/{file}"));
        let header = format!("Content-Type: {content_type}; charset=utf-8");
        assert!(response.head.contains(&header), "{}", response.head);
        assert!(response.status == 200 && !response.body.is_empty());
    }
}

#[test]
fn openai_completions_have_the_documented_fields() {
    let dir = chat_model_dir();
    let server = Server::start(dir.path(), "");
    let path = "/v1/chat/completions";
    let messages =
        json!([{ "role": "system", "content": "be kind" }, { "role": "user", "content": "hello" }]);
    let body = json!({ "model": "any", "messages": messages, "seed": 1, "n": 2, "max_tokens": 3, "temperature": 0 });
    let response = server.post(path, &body).json(200);
    assert_eq!(response["object"], "chat.completion");
    assert_eq!(
        response["usage"],
        json!({ "prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15 })
    );
    let choices = response["choices"].as_array().unwrap();
    assert_eq!((choices.len(), &choices[1]["index"]), (2, &json!(1)));
    assert_eq!(choices[0]["finish_reason"], "length");
    let text = choices[0]["message"]["content"].as_str().unwrap();
    assert_eq!(text.len(), 3);

    let mut stopped = body.clone();
    stopped["stop"] = json!([&text[1..2]]);
    let response = server.post(path, &stopped).json(200);
    assert_eq!(response["choices"][0]["finish_reason"], "stop");
    let end = text.find(&text[1..2]).unwrap();
    assert_eq!(response["choices"][0]["message"]["content"], text[..end]);

    for n in [0, 51, u64::MAX] {
        let error = server
            .post(path, &json!({ "messages": messages, "n": n }))
            .json(400);
        assert!(
            error["error"]["message"].as_str().unwrap().contains("1"),
            "{error}"
        );
    }
    let models = server.get("/v1/models").json(200);
    assert_eq!(models["data"][0]["id"], "microgpt");
    assert_eq!(
        server.get("/v1/models/microgpt").json(200)["object"],
        "model"
    );
    assert_eq!(
        server.get("/v1/models/other").json(404)["error"]["type"],
        "invalid_request_error"
    );
}

#[test]
fn streamed_text_matches_the_unstreamed_response() {
    let dir = chat_model_dir();
    let server = Server::start(dir.path(), "");
    let path = "/v1/chat/completions";
    let mut body = json!({ "messages": [{ "role": "user", "content": "hello" }], "seed": 3, "temperature": 1,
        "stop": "zz" });
    let whole = server.post(path, &body).json(200);
    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    let response = server.post(path, &body);
    assert!(
        response.head.contains("Content-Type: text/event-stream")
            && response.head.contains("X-Accel-Buffering: no"),
        "{}",
        response.head
    );
    let events: Vec<&str> = response
        .body
        .split("\n\n")
        .filter_map(|e| e.strip_prefix("data: "))
        .collect();
    assert_eq!(*events.last().unwrap(), "[DONE]");
    let events: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|e| serde_json::from_str(e).unwrap())
        .collect();
    let text: String = events
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(
        events[events.len() - 2]["choices"][0]["finish_reason"],
        whole["choices"][0]["finish_reason"]
    );
    assert_eq!(events[events.len() - 1]["usage"], whole["usage"]);
    assert!(events.len() > text.chars().count(), "an event a character");
}

#[test]
fn openai_text_completions() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "");
    let mut body = json!({ "prompt": ["ab", "c"], "n": 2, "seed": 42 });
    let response = server.post("/v1/completions", &body).json(200);
    let texts: Vec<String> = (0..4)
        .map(|i| response["choices"][i]["text"].as_str().unwrap().into())
        .collect();
    for (prompt, texts) in ["ab", "c"].iter().zip(texts.chunks(2)) {
        let output = run_in(
            dir.path(),
            &format!("generate -m model -n 2 --prompt {prompt}"),
        )
        .ok();
        let expected: Vec<&str> = output
            .stdout
            .lines()
            .map(|line| &line[prompt.len()..])
            .collect();
        assert_eq!(texts, expected);
    }
    body["stream"] = json!(true);
    let streamed = server.post("/v1/completions", &body).body;
    assert!(
        streamed.ends_with("data: [DONE]\n\n")
            && streamed.contains("\"object\":\"text_completion\"")
    );
    assert_eq!(
        server
            .post("/v1/completions", &json!({ "prompt": 1 }))
            .status,
        400
    );
}

/// A temporary directory with a chat model of a long context, which generates for seconds.
fn long_context_model_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    run_in(
        dir.path(),
        "train --chat --steps 1 --batch-size 1 --block-size 20000 -o model -q",
    )
    .ok();
    dir
}

const LONG: &str = r#"{"messages": [{"role": "user", "content": "hello"}], "stream": true, "temperature": 3, "n": 50}"#;

/// A request with more events than socket buffers hold.
const ENDLESS: &str =
    r#"{"prompt": "a", "stream": true, "temperature": 3, "n": 50, "max_tokens": 1999}"#;

#[test]
fn tokens_are_streamed_and_disconnect_cancels_generation() {
    let dir = tempfile::tempdir().unwrap();
    // A model of continuous text stops only at the limit.
    std::fs::write(dir.path().join("text"), "abc\n".repeat(1000)).unwrap();
    run_in(
        dir.path(),
        "train --text --input text --steps 1 --batch-size 1 --block-size 2000 -o model -q",
    )
    .ok();
    let server = Server::start(dir.path(), "");
    let mut stream = server.connect();
    stream
        .write_all(post("/v1/completions", ENDLESS).as_bytes())
        .unwrap();
    // The first events arrive before the last are generated.
    let mut reader = BufReader::new(stream);
    let mut events = 0;
    while events < 20 {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        events += usize::from(line.starts_with("data: "));
    }
    assert_eq!(server.metric("microgpt_requests_in_progress"), 1.0);
    drop(reader);
    let start = Instant::now();
    while server.metric("microgpt_requests_in_progress") > 0.0 {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the generation goes on"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(
        server
            .get("/metrics")
            .body
            .contains("endpoint=\"/v1/completions\",status=\"499\"} 1")
    );
}

#[test]
fn slow_reader_does_not_block_other_clients() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "--threads 1");
    // Incomplete heads and bodies, more of them than workers.
    let whole = post("/microgpt/v1/generate", &" ".repeat(5000));
    let slow: Vec<TcpStream> = (0..20)
        .map(|i| {
            let mut stream = server.connect();
            stream
                .write_all(&whole.as_bytes()[..if i % 2 == 0 { 30 } else { 3000 }])
                .unwrap();
            stream
        })
        .collect();
    // A rejected request whose body is still being sent.
    let huge = whole.replace("Content-Length: 5000", "Content-Length: 2000000");
    let mut refused = server.connect();
    refused.write_all(&huge.as_bytes()[..3000]).unwrap();
    let mut line = String::new();
    BufReader::new(&refused).read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 413"), "{line}");
    let start = Instant::now();
    assert_eq!(server.post("/microgpt/v1/generate", &json!({})).status, 200);
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(slow);
}

#[test]
fn full_queue_is_503_at_once() {
    let dir = long_context_model_dir();
    let server = Server::start(dir.path(), "--threads 1");
    let busy: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = server.connect();
            stream
                .write_all(post("/v1/chat/completions", LONG).as_bytes())
                .unwrap();
            stream
        })
        .collect();
    while server.metric("microgpt_queue_length") < 64.0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let refused = server.post("/v1/completions", &json!({}));
    assert!(
        refused.status == 503 && refused.head.contains("Retry-After: 1"),
        "{}",
        refused.head
    );
    assert_eq!(
        server.get("/healthz").status,
        200,
        "operators are answered all the same"
    );
    drop(busy);
}

#[test]
fn sigterm_finishes_requests_in_flight() {
    for signal in ["-TERM", "-INT"] {
        let dir = long_context_model_dir();
        let mut server = Server::start(dir.path(), "");
        let body = LONG.replace("50}", "1, \"max_tokens\": 2000}");
        let mut stream = server.connect();
        stream
            .write_all(post("/v1/chat/completions", &body).as_bytes())
            .unwrap();
        let mut response = BufReader::new(stream);
        let mut text = String::new();
        response.read_line(&mut text).unwrap();
        server.signal(signal);
        response.read_to_string(&mut text).unwrap();
        assert!(text.contains("data: [DONE]"), "the response was cut off");
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn requests_are_logged_unless_quiet() {
    let dir = text_model_dir();
    let mut server = Server::start(dir.path(), "");
    server.get("/healthz?x=1");
    let mut line = String::new();
    server.stderr.read_line(&mut line).unwrap();
    assert!(
        line.starts_with("127.0.0.1:") && line.contains(" GET \"/healthz\" 200 "),
        "{line}"
    );

    let mut server = Server::start(dir.path(), "--quiet");
    server.get("/healthz");
    server.signal("-TERM");
    let mut rest = String::new();
    server.stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn unavailable_address_is_an_error() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "");
    let port = server.address.rsplit(':').next().unwrap();
    let error = run_in(dir.path(), &format!("serve -m model --port {port}")).error(1);
    assert!(
        error.contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{error}"
    );
    assert!(
        run_in(dir.path(), "serve --port 65536")
            .error(2)
            .contains("from 0 to 65535")
    );
    assert!(
        run_in(dir.path(), "serve -m nowhere")
            .error(1)
            .contains("no model in nowhere")
    );
}
