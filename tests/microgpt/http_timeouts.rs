//! Timeouts of clients that send or read too slowly.

use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::hostile_http::resources;
use crate::program::text_model_dir;
use crate::serve::Server;

/// Seconds until an idle client, a slow client and one that is idle after a response are
/// disconnected, with slack for a busy machine.
const IDLE: Range<u64> = 9..25;
const KEPT_ALIVE: Range<u64> = 74..110;
const SLOW: Range<u64> = 29..60;

/// Sends the start of a request and then one byte per second if `trickles`, else nothing. Returns
/// the response and the seconds until the server closes the connection.
fn trickle(server: &Server, beginning: &str, trickles: bool) -> (String, u64) {
    let mut stream = server.connect();
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    stream.write_all(beginning.as_bytes()).unwrap();
    let (start, mut response, mut part) = (Instant::now(), Vec::new(), [0; 4096]);
    while start.elapsed() < Duration::from_secs(KEPT_ALIVE.end) {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => response.extend_from_slice(&part[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if trickles && stream.write_all(b"a").is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    let response = String::from_utf8(response).unwrap();
    (response, start.elapsed().as_secs())
}

/// Sends requests without reading responses. Returns the seconds until the server disconnects.
fn never_read(server: &Server) -> u64 {
    let (mut stream, start) = (server.connect(), Instant::now());
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    stream
        .set_write_timeout(Some(Duration::from_secs(SLOW.end)))
        .unwrap();
    while start.elapsed() < Duration::from_secs(SLOW.end) && stream.write_all(&request).is_ok() {}
    start.elapsed().as_secs()
}

#[test]
fn slow_clients_are_disconnected_at_the_timeout() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "--quiet");
    server.post("/microgpt/v1/generate", &json!({}));
    let before = resources(&server);
    let sized = "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{";
    let chunked = "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("{chunked}1;");
    let whole = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let server = &server;
    thread::scope(|scope| {
        for (beginning, trickles, status, seconds) in [
            ("", false, "", IDLE),
            (whole, false, "200", KEPT_ALIVE),
            ("GET /", false, "408", IDLE),
            (sized, false, "408", IDLE),
            (chunked, false, "408", IDLE),
            ("GET /", true, "408", SLOW),
            (sized, true, "408", SLOW),
            (&chunk, true, "408", SLOW),
        ] {
            scope.spawn(move || {
                let (response, took) = trickle(server, beginning, trickles);
                let first = response.lines().next().unwrap_or_default();
                let said = first.split(' ').nth(1).unwrap_or_default();
                // A client that keeps sending after the close may lose the response to a reset.
                let heard = said == status || (trickles && response.is_empty());
                assert!(heard, "{beginning:?}: {response}");
                assert!(seconds.contains(&took), "{beginning:?} took {took} s");
            });
        }
        scope.spawn(|| {
            // Socket buffers accept data first.
            let took = never_read(server);
            assert!((IDLE.start..SLOW.end).contains(&took), "{took} s");
        });
    });
    // All threads and descriptors are released.
    let mut after = resources(server);
    for _ in 0..100 {
        if after.0 <= before.0 && after.1 <= before.1 {
            return;
        }
        thread::sleep(Duration::from_millis(100));
        after = resources(server);
    }
    panic!("threads and open files: {before:?}, then {after:?}");
}
