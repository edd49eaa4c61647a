//! Malformed and malicious HTTP requests: each gets an error response or a closed connection, and
//! all threads, descriptors and memory are released.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::program::text_model_dir;
use crate::serve::Server;

const PATH: &str = "/microgpt/v1/generate";

/// A request that no other test sends, hidden in bodies to detect request smuggling.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

/// A POST request with additional header lines and a body.
fn request(lines: &str, body: &str) -> Vec<u8> {
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n");
    format!("{head}{lines}\r\n{body}").into_bytes()
}

/// Values of Content-Length, valid and invalid.
const LENGTHS: [&str; 24] = [
    "-1",
    "+2",
    "2 2",
    "2,2",
    "0x2",
    "2.0",
    "1e3",
    "",
    " ",
    "two",
    "٢",
    "2;",
    "\"2\"",
    "00002",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999",
    "2\t",
    "2\u{0}",
    "4294967296",
    "-0",
    "NaN",
    "0",
];

/// Requests with each Content-Length.
fn lengths() -> Vec<Vec<u8>> {
    let only = |value: &&str| request(&format!("Content-Length: {value}\r\n"), "{}");
    LENGTHS.iter().map(only).collect()
}

/// Requests with two body lengths or an encoding that parsers interpret differently, such that the
/// smuggled request is body to one parser and the next request to another.
fn ambiguous() -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    for value in LENGTHS {
        let twice = format!("Content-Length: 2\r\nContent-Length: {value}\r\n");
        requests.push(request(&twice, &format!("{{}}{SMUGGLED}")));
        let both = format!("Content-Length: {value}\r\nTransfer-Encoding: chunked\r\n");
        requests.push(request(&both, &format!("2\r\n{{}}\r\n0\r\n\r\n{SMUGGLED}")));
    }
    let encodings = [
        "xchunked",
        "chunked, identity",
        "identity, chunked",
        "identity",
        "gzip, chunked",
        "chunked, chunked",
        "chunked;q=1",
        "\"chunked\"",
        "cow",
        "",
        "chunk",
        "chunked\u{b}",
        ",chunked",
        "deflate",
        "chunked\r\n ",
    ];
    for encoding in encodings {
        let only = format!("Transfer-Encoding: {encoding}\r\n");
        requests.push(request(&only, &format!("0\r\n\r\n{SMUGGLED}")));
        let length = format!("Content-Length: 5\r\nTransfer-Encoding: {encoding}\r\n");
        requests.push(request(&length, &format!("0\r\n\r\n{SMUGGLED}")));
    }
    for name in [
        "Transfer-Encoding",
        "TRANSFER-ENCODING",
        "Transfer-Encoding ",
        "Transfer-Encoding\t",
        " Transfer-Encoding",
        "X:\nTransfer-Encoding",
        "X:\rTransfer-Encoding",
    ] {
        let lines = format!("Content-Length: 5\r\n{name}: chunked\r\n");
        requests.push(request(&lines, &format!("0\r\n\r\n{SMUGGLED}")));
    }
    requests
}

/// Chunked bodies, valid and invalid.
fn chunks() -> Vec<Vec<u8>> {
    let bodies = [
        "",
        "2",
        "2\r",
        "2\r\n",
        "2\r\n{}",
        "2\r\n{}\r\n",
        "2\r\n{}\r\n0",
        "2\r\n{}\r\n0\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "+2\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        "2;a=b\r\n{}\r\n0\r\n\r\n",
        "2;\r\n{}\r\n0\r\n\r\n",
        "2 \r\n{}\r\n0\r\n\r\n",
        " 2\r\n{}\r\n0\r\n\r\n",
        "2\n{}\n0\n\n",
        "02\r\n{}\r\n0\r\n\r\n",
        "g\r\n{}\r\n0\r\n\r\n",
        "\r\n{}\r\n0\r\n\r\n",
        "1\r\n{}\r\n0\r\n\r\n",
        "3\r\n{}\r\n0\r\n\r\n",
        "ffffffffffffffff\r\n{}",
        "10000000000000000\r\n{}",
        "7fffffffffffffff\r\n{}\r\n0\r\n\r\n",
        "fffffffffffffffffffffffffffffffff\r\n{}",
        "2\r\n{}\r\n0\r\nX: y\r\n\r\n",
        "2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n",
        "2\r\n{}\r\n-0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        "2\r\n{}\r\n\r\n0\r\n\r\n",
    ];
    let chunked = |body: &&str| request("Transfer-Encoding: chunked\r\n", body);
    bodies.iter().map(chunked).collect()
}

/// Requests with invalid or unusual header fields.
fn heads() -> Vec<Vec<u8>> {
    let lines = [
        "X",
        "X:",
        ":",
        ": y",
        "X y",
        "X : y",
        " X: y",
        "X: y\n",
        "X: y\r",
        "X: \u{0}",
        "\u{0}: y",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "Host: y",
        "Host:",
        "Expect: 100-continue",
        "Expect: coffee",
        "Upgrade: h2c",
        "Connection: upgrade",
        "Connection: close, keep-alive",
        "Connection:",
        "Content-Type: text/html",
        "Content-Type:",
        "Content-Encoding: gzip",
        "Range: bytes=0-",
        "X: \u{7f}",
        "É: y",
        "X: é",
        "\"X\": y",
        "(X): y",
        "X\u{b}: y",
        "TE: trailers",
        "Trailer: Content-Length",
        "Authorization: Basic",
        "Cookie: a=b; c",
        "X: y\r\nX: y",
    ];
    let mut requests: Vec<Vec<u8>> = lines
        .iter()
        .map(|line| request(&format!("Content-Length: 2\r\n{line}\r\n"), "{}"))
        .collect();
    let many = "X: y\r\n".repeat(20_000);
    requests.push(request(&format!("Content-Length: 2\r\n{many}"), "{}"));
    let long = format!("X: {}\r\n", "y".repeat(1 << 20));
    requests.push(request(&format!("Content-Length: 2\r\n{long}"), "{}"));
    requests.push(request(&"x".repeat(1 << 20), ""));
    requests
}

/// Request lines, valid and invalid.
fn request_lines() -> Vec<Vec<u8>> {
    let long = format!("GET /{} HTTP/1.1", "a".repeat(1 << 20));
    let lines = [
        "",
        " ",
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "/",
        "GET / HTTP/1.1 HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/9.9",
        "GET / HTTP/0.9",
        "GET / HTTP/1",
        "GET / HTTP/1.",
        "GET / HTTP/.1",
        "GET / HTTP/-1.1",
        "GET / HTTP/1.1.1",
        "GET / HTTP/11",
        "GET / HTTP/2.0",
        "GET / FTP/1.1",
        "GET / HTTP/1.99999999999999999999",
        "get / HTTP/1.1",
        "G\u{0}T / HTTP/1.1",
        "BREW / HTTP/1.1",
        "CONNECT x:1 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "TRACE / HTTP/1.1",
        "DELETE / HTTP/1.1",
        "PATCH / HTTP/1.1",
        "GET http://x/ HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET //x HTTP/1.1",
        "GET * HTTP/1.1",
        "GET x HTTP/1.1",
        "GET ? HTTP/1.1",
        "GET /?a=%00 HTTP/1.1",
        "GET /%zz HTTP/1.1",
        "GET /../../etc/passwd HTTP/1.1",
        "GET /..%2f..%2fetc/passwd HTTP/1.1",
        "GET /\u{7f} HTTP/1.1",
        "GET /é HTTP/1.1",
        "GET /\t HTTP/1.1",
        "GET /#x HTTP/1.1",
        "GET /healthz/ HTTP/1.1",
        "GET /healthz?x HTTP/1.1",
        "GET /v1/models/%2e%2e HTTP/1.1",
        "PRI * HTTP/2.0",
        &long,
    ];
    lines
        .iter()
        .map(|line| format!("{line}\r\nHost: x\r\n\r\n").into_bytes())
        .collect()
}

/// Bodies that are not valid requests of this server.
fn bodies() -> Vec<Vec<u8>> {
    let deep = "[".repeat(100_000);
    let objects = "{\"a\":".repeat(50_000);
    let long = format!("{{\"prompt\":\"{}\"}}", "a".repeat(1 << 19));
    let bodies = [
        "",
        " ",
        "{",
        "}",
        "[",
        "[]",
        "null",
        "true",
        "0",
        "\"\"",
        "{}{}",
        "{\"",
        "{\"a\"",
        "{\"a\":",
        "{\"seed\":1,}",
        "{\"seed\":1,\"seed\":2}",
        "{'seed':1}",
        "{\"seed\":-1}",
        "{\"seed\":1.5}",
        "{\"seed\":1e400}",
        "{\"seed\":99999999999999999999999}",
        "{\"temperature\":-1}",
        "{\"temperature\":\"x\"}",
        "{\"temperature\":null}",
        "{\"num_samples\":0}",
        "{\"top_k\":0}",
        "{\"num_samples\":-9}",
        "{\"top_p\":2}",
        "{\"min_p\":-1}",
        "{\"max_tokens\":0}",
        "{\"prompt\":1}",
        "{\"prompt\":\"\\u0000\"}",
        "{\"prompt\":\"\\ud800\"}",
        "{\"\\ud800\":1}",
        "{\"prompt\":\"€\"}",
        "{\"num_samples\":true}",
        "\u{feff}{}",
        "{\"a\":1}//",
        "NaN",
        "{\"temperature\":Infinity}",
        &deep,
        &objects,
        &long,
    ];
    let sized = |body: &&str| request(&format!("Content-Length: {}\r\n", body.len()), body);
    let mut requests: Vec<Vec<u8>> = bodies.iter().map(sized).collect();
    let mut bytes = request("Content-Length: 4\r\n", "");
    bytes.extend([0xff, 0xfe, 0x00, 0x80]);
    requests.push(bytes);
    requests
}

/// Truncated requests, other protocols and random bytes.
fn fragments() -> Vec<Vec<u8>> {
    let good = request("Content-Length: 11\r\n", "{\"seed\": 3}");
    let mut requests: Vec<Vec<u8>> = (0..good.len())
        .step_by(3)
        .map(|n| good[..n].to_vec())
        .collect();
    requests.push(vec![0; 10_000]);
    requests.push(vec![b'\n'; 10_000]);
    requests.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20));
    requests.push(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec());
    let mut rng = fastrand::Rng::with_seed(4);
    for _ in 0..20 {
        requests.push((0..500).map(|_| rng.u8(..)).collect());
    }
    requests
}

/// Sends bytes, shuts down the sending side and reads to the end of the response.
fn send(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = server.connect();
    // The server may close before it has read all of a rejected request.
    let _ = stream
        .write_all(bytes)
        .and_then(|()| stream.shutdown(Shutdown::Write));
    let mut response = Vec::new();
    if let Err(error) = stream.read_to_end(&mut response) {
        let timeouts = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]);
        assert!(
            !timeouts.contains(&error.kind()),
            "no response or close after {shown:?}"
        );
    }
    response
}

/// The status codes in a response to `bytes`. Asserts that it is HTTP and has no 500.
fn statuses(bytes: &[u8], response: &[u8]) -> Vec<u16> {
    let response = String::from_utf8_lossy(response);
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]);
    assert!(
        response.is_empty() || response.starts_with("HTTP/1."),
        "{shown:?}: {response}"
    );
    let lines = response.lines().filter(|line| line.starts_with("HTTP/1."));
    let status = |line: &str| line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let statuses: Vec<u16> = lines
        .map(|line| status(line).expect("a status code"))
        .collect();
    assert!(!statuses.contains(&500), "{shown:?}: {response}");
    statuses
}

/// The number of threads and of open files of the server.
pub fn resources(server: &Server) -> (usize, usize) {
    let count = |what: &str| {
        let dir = Path::new("/proc").join(server.pid().to_string()).join(what);
        std::fs::read_dir(dir).map_or(0, |entries| entries.count())
    };
    (count("task"), count("fd"))
}

#[test]
fn malformed_requests_are_answered_or_closed() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "--quiet");
    let good = json!({ "seed": 3, "num_samples": 2 });
    let expected = server.post(PATH, &good).body;
    for bytes in ambiguous() {
        let (response, shown) = (send(&server, &bytes), String::from_utf8_lossy(&bytes));
        let statuses = statuses(&bytes, &response);
        assert!(
            statuses == [400] || statuses == [501],
            "{shown:?} was answered {statuses:?}"
        );
    }
    let groups = [
        ambiguous(),
        lengths(),
        chunks(),
        heads(),
        request_lines(),
        bodies(),
        fragments(),
    ];
    let count: usize = groups.iter().map(Vec::len).sum();
    assert!(count > 300, "{count} requests");
    for bytes in groups.iter().flatten() {
        statuses(bytes, &send(&server, bytes));
    }
    // All of them concurrently, each twice.
    let server = &server;
    std::thread::scope(|scope| {
        for part in 0..16 {
            let all: Vec<&Vec<u8>> = groups.iter().flatten().skip(part).step_by(8).collect();
            scope.spawn(move || all.iter().for_each(|bytes| drop(send(server, bytes))));
        }
    });
    assert_eq!(server.post(PATH, &good).body, expected);
}

#[test]
fn idle_connections_block_nobody_and_free_their_threads() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "--quiet");
    let good = json!({ "seed": 3 });
    let expected = server.post(PATH, &good).body;
    let before = resources(&server);
    let beginnings = [
        "",
        "G",
        "POST ",
        "POST / HTTP/1.1\r\nContent-Le",
        "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
    ];
    let mut open = Vec::new();
    for i in 0..200 {
        let mut stream = server.connect();
        stream
            .write_all(beginnings[i % beginnings.len()].as_bytes())
            .unwrap();
        open.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(server.post(PATH, &good).body, expected);
    }
    drop(open);
    // All threads and descriptors are released.
    let mut after = resources(&server);
    for _ in 0..300 {
        if after.0 <= before.0 && after.1 <= before.1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        after = resources(&server);
    }
    assert!(after.0 <= before.0, "threads: {before:?}, then {after:?}");
    assert!(
        after.1 <= before.1,
        "open files: {before:?}, then {after:?}"
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "--quiet");
    for encoding in ["chunked", "Chunked", "\tchunked "] {
        let lines = format!("Transfer-Encoding: {encoding}\r\n");
        let two = request(&lines, &format!("2\r\n{{}}\r\n0\r\n\r\n{SMUGGLED}"));
        assert_eq!(statuses(&two, &send(&server, &two)), [200, 404]);
    }
    let many = request("Content-Length: 2\r\n", "{}").repeat(500);
    let responses = statuses(&many, &send(&server, &many));
    assert_eq!(responses, [200; 500]);
}

#[test]
fn server_survives_file_descriptor_exhaustion() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "--quiet");
    let good = json!({ "seed": 3 });
    let expected = server.post(PATH, &good).body;
    let limit = format!("--nofile={}", resources(&server).1 + 10);
    let limited = Command::new("prlimit")
        .args(["--pid", &server.pid().to_string(), &limit])
        .status();
    assert!(limited.unwrap().success());
    let open: Vec<_> = (0..50).map(|_| server.connect()).collect();
    std::thread::sleep(Duration::from_millis(100));
    drop(open);
    assert_eq!(server.post(PATH, &good).body, expected);
}

/// The resident memory of the server in kB.
fn memory(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn endless_head_and_body_are_cut_off() {
    const MAX_SENT: usize = 100 << 20;
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "--quiet");
    server.post(PATH, &json!({}));
    let before = memory(&server);
    let head = |lines: &str| format!("POST {PATH} HTTP/1.1\r\nHost: x\r\n{lines}");
    let chunked = head("Transfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("10000\r\n{}\r\n", "a".repeat(0x10000));
    let (letters, lines) = ("a".repeat(1000), "X: y\r\n".repeat(100));
    for (beginning, more, status) in [
        (String::new(), &"\r\n".repeat(100), 431),
        ("GET /".to_string(), &letters, 431),
        (head("X: "), &letters, 431),
        (head(""), &lines, 431),
        (chunked.clone(), &chunk, 413),
        (format!("{chunked}1;"), &letters, 400),
        (format!("{chunked}0\r\n"), &lines, 400),
        (head("Content-Length: 9999999999\r\n\r\n"), &letters, 413),
        (
            head("Content-Length: 9223372036854775807\r\n\r\n"),
            &letters,
            413,
        ),
    ] {
        let mut stream = server.connect();
        stream.write_all(beginning.as_bytes()).unwrap();
        // The server stops reading.
        let mut sent = 0;
        while sent < MAX_SENT && stream.write_all(more.as_bytes()).is_ok() {
            sent += more.len();
        }
        assert!(sent < MAX_SENT, "{more:.9?} is accepted without limit");
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response);
        // A reset may discard the response before it is read.
        let statuses = statuses(beginning.as_bytes(), &response);
        assert!(statuses.is_empty() || statuses == [status], "{statuses:?}");
    }
    let after = memory(&server);
    assert!(after < before + 20_000, "memory: {before} kB, then {after}");
}
