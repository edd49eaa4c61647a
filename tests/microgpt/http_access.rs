//! The hosts, origins and API keys that a server admits.

use std::process::Stdio;

use serde_json::json;

use crate::program::{microgpt, run_in, text_model_dir};
use crate::serve::{Response, Server, post};

const COMPLETIONS: &str = "/v1/completions";

/// The response to a completion with further header lines.
fn complete(server: &Server, lines: &str) -> Response {
    let body = json!({ "max_tokens": 1, "seed": 1 }).to_string();
    let request = post(COMPLETIONS, &body);
    server.send(&request.replacen("Host: x\r\n", lines, 1))
}

fn preflight(server: &Server, origin: &str) -> Response {
    server.send(&format!(
        "OPTIONS {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: {origin}\r\n\
         Access-Control-Request-Method: POST\r\n\
         Access-Control-Request-Headers: authorization, x-stainless-os\r\n\r\n"
    ))
}

#[test]
fn foreign_hosts_and_origins_get_403() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "--quiet");
    for (lines, status) in [
        ("Host: localhost\r\n", 200),
        ("Host: 127.0.0.1:8080\r\n", 200),
        ("Host: [::1]\r\n", 200),
        ("Host: evil.example\r\n", 403),
        (
            "Host: localhost:8080\r\nOrigin: http://localhost:8080\r\n",
            200,
        ),
        ("Host: localhost\r\nOrigin: http://evil.example\r\n", 403),
        ("Host: localhost\r\nOrigin: null\r\n", 403),
    ] {
        assert_eq!(complete(&server, lines).status, status, "{lines}");
    }
    let refused = complete(&server, "Host: evil.example\r\n").json(403);
    assert_eq!(
        refused["error"]["message"],
        "the host \"evil.example\" is unknown; serve --allow-host allows a name"
    );
    assert_eq!(preflight(&server, "http://x").status, 403);
}

#[test]
fn cors_origin_allows_pages_of_another_origin() {
    let dir = text_model_dir();
    let options = "--quiet --cors-origin http://localhost:3000 --cors-origin https://app.example";
    let server = Server::start(dir.path(), options);
    for origin in ["http://localhost:3000", "https://app.example"] {
        let response = preflight(&server, origin);
        assert_eq!(response.status, 204);
        for header in [
            &*format!("Access-Control-Allow-Origin: {origin}\r\nVary: Origin"),
            "Access-Control-Allow-Methods: GET, HEAD, POST",
            "Access-Control-Allow-Headers: authorization, x-stainless-os",
        ] {
            assert!(response.head.contains(header), "{}", response.head);
        }
        assert!(!response.head.contains("Content-Length"));
        let lines = format!("Host: localhost\r\nOrigin: {origin}\r\n");
        let header = format!("Access-Control-Allow-Origin: {origin}");
        let whole = complete(&server, &lines);
        assert!(whole.status == 200 && whole.head.contains(&header));
        let body = post(COMPLETIONS, "{\"stream\":true}").replacen("Host: x\r\n", &lines, 1);
        let events = server.send(&body);
        assert!(events.status == 200 && events.head.contains(&header));
        let error = post("/v1/nothing", "{}").replacen("Host: x\r\n", &lines, 1);
        let error = server.send(&error);
        assert!(error.status == 404 && error.head.contains(&header));
    }
    assert_eq!(preflight(&server, "http://localhost:3001").status, 403);

    let server = Server::start(dir.path(), "--quiet --cors-origin *");
    assert_eq!(preflight(&server, "http://any.example").status, 204);
}

#[test]
fn api_key_is_required_of_everything_but_health_and_page() {
    let dir = text_model_dir();
    std::fs::write(dir.path().join("key"), "secret-key\n").unwrap();
    let options = "--quiet --api-key-file key --cors-origin *";
    let server = Server::start(dir.path(), options);
    for path in ["/", "/style.css", "/script.js", "/healthz"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    for path in ["/metrics", "/microgpt/v1/info", "/v1/models", "/nothing"] {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
    let refused = complete(&server, "Host: x\r\n");
    assert!(refused.head.contains("WWW-Authenticate: Bearer"));
    assert_eq!(
        refused.json(401)["error"]["message"],
        "the server needs an API key: Authorization: Bearer KEY"
    );
    for (key, status) in [("secret-key", 200), ("secret-kez", 401), ("secret", 401)] {
        let lines = format!("Host: x\r\nAuthorization: Bearer {key}\r\n");
        assert_eq!(complete(&server, &lines).status, status, "{key}");
    }
    assert_eq!(preflight(&server, "http://app.example").status, 204);
}

#[test]
fn unusable_api_key_is_an_error() {
    let dir = text_model_dir();
    let serve = "serve -m model --port 0";
    let error = run_in(dir.path(), &format!("{serve} --api-key-file none")).error(1);
    assert!(error.contains("cannot read the API key in none"), "{error}");
    std::fs::write(dir.path().join("empty"), "\n").unwrap();
    let error = run_in(dir.path(), &format!("{serve} --api-key-file empty")).error(1);
    assert!(error.contains("the API key in empty must be"), "{error}");
    let output = microgpt()
        .current_dir(dir.path())
        .env("MICROGPT_API_KEY", "")
        .args(serve.split(' '))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("the API key in MICROGPT_API_KEY must be"));
    assert!(
        run_in(dir.path(), "serve --api-key abc")
            .error(2)
            .contains("--api-key-file"),
        "no option takes the key itself"
    );
}

#[test]
fn host_may_be_an_ipv6_address_in_brackets() {
    let dir = text_model_dir();
    // Some containers have no IPv6.
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let server = Server::start(dir.path(), "--quiet --host [::1]");
        assert_eq!(server.get("/healthz").status, 200);
    }
}
