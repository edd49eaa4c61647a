//! Access control: the hosts, the origins and the API key that a request must have.
//!
//! A page of another site can send requests to a local server from its visitor's browser, and read
//! the responses once its host name resolves to this machine (DNS rebinding). The browser reports
//! the page in `Origin` and the name in `Host`, so both are checked.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::head::RequestHead;
use crate::serve::http::{HttpError, Response};

/// The paths that need no API key: the page that asks for it, and the check of a container's health.
const PUBLIC_PATHS: [&str; 4] = ["/", "/style.css", "/script.js", "/healthz"];

/// The origin that stands for all.
const ANY_ORIGIN: &str = "*";

#[derive(Clone, Default)]
pub struct Access {
    /// Host names beside addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Origins of other pages that may use the server; `*` allows all.
    pub origins: Vec<String>,
    pub api_key: Option<String>,
}

impl Access {
    /// Errors with 403 for a foreign host or origin, and with 401 without the API key.
    pub fn check(&self, head: &RequestHead) -> Result<(), HttpError> {
        // HTTP/1.0 needs no Host. Browsers always send one.
        let host = head.text("Host")?;
        if let Some(host) = &host
            && !self.knows_host(host)
        {
            return Err(HttpError::new(
                403,
                format!("the host {host:?} is unknown; serve --allow-host allows a name"),
            ));
        }
        if let Some(origin) = head.text("Origin")?
            && !is_same_origin(&origin, host.as_deref())
            && !self.allows_origin(&origin)
        {
            return Err(HttpError::new(
                403,
                format!("the origin {origin:?} is foreign; serve --cors-origin allows one"),
            ));
        }
        if is_preflight(head) || PUBLIC_PATHS.contains(&head.path.as_str()) {
            return Ok(());
        }
        self.check_api_key(head)
    }

    fn check_api_key(&self, head: &RequestHead) -> Result<(), HttpError> {
        let Some(key) = &self.api_key else {
            return Ok(());
        };
        let header = head.text("Authorization")?.unwrap_or_default();
        let message = match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("Bearer") => {
                if equal_in_constant_time(token.trim().as_bytes(), key.as_bytes()) {
                    return Ok(());
                }
                "the API key is wrong"
            }
            _ => "the server needs an API key: Authorization: Bearer KEY",
        };
        Err(HttpError {
            header: Some(("WWW-Authenticate", "Bearer")),
            ..HttpError::new(401, message)
        })
    }

    fn knows_host(&self, host: &str) -> bool {
        let Some(name) = host_name(host) else {
            return false;
        };
        name.parse::<Ipv4Addr>().is_ok()
            || name.parse::<Ipv6Addr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self
                .hosts
                .iter()
                .any(|host| host.eq_ignore_ascii_case(name))
    }

    fn allows_origin(&self, origin: &str) -> bool {
        let is_allowed =
            |allowed: &String| allowed == ANY_ORIGIN || allowed.eq_ignore_ascii_case(origin);
        self.origins.iter().any(is_allowed)
    }

    /// The CORS headers of every response to a request, one per line: none unless an origin is
    /// allowed.
    pub fn cors_headers(&self, head: &RequestHead) -> String {
        if self.origins.is_empty() {
            return String::new();
        }
        match head.text("Origin") {
            Ok(Some(origin)) if self.allows_origin(&origin) => {
                format!("Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n")
            }
            _ => "Vary: Origin\r\n".to_string(),
        }
    }

    /// The response to the preflight of a request from an allowed origin. Browsers ask before they
    /// send JSON or a key to another origin.
    pub fn preflight(&self, head: &RequestHead) -> Option<Response> {
        let origin = head.text("Origin").ok()??;
        if !is_preflight(head) || !self.allows_origin(&origin) {
            return None;
        }
        let headers = head.text("Access-Control-Request-Headers").ok()?;
        Some(Response {
            status: 204,
            headers: vec![
                (
                    "Access-Control-Allow-Methods",
                    "GET, HEAD, POST".to_string(),
                ),
                // OpenAI's client adds many of its own, which are ignored.
                ("Access-Control-Allow-Headers", headers.unwrap_or_default()),
                ("Access-Control-Max-Age", "86400".to_string()),
            ],
            body: String::new(),
        })
    }
}

fn is_preflight(head: &RequestHead) -> bool {
    let requested = head.text("Access-Control-Request-Method");
    head.method == "OPTIONS" && matches!(requested, Ok(Some(_)))
}

/// Returns true if the page comes from this server. The scheme is not compared: a proxy may have
/// removed the encryption.
fn is_same_origin(origin: &str, host: Option<&str>) -> bool {
    let authority = ["http://", "https://"]
        .iter()
        .find_map(|scheme| origin.strip_prefix(scheme));
    match (authority, host) {
        (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
        _ => false,
    }
}

/// The name or address of a `Host`, without the port and the brackets; none where it is malformed.
fn host_name(host: &str) -> Option<&str> {
    let (name, rest) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port,
        None if rest.is_empty() => "",
        None => return None,
    };
    port.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(name)
}

/// Compares all bytes in any case: the time must not tell how many of them are right.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let differences = a
        .iter()
        .zip(b)
        .fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    a.len() == b.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &str) -> RequestHead {
        let text = format!("POST /v1/models HTTP/1.1\r\n{lines}\r\n");
        RequestHead::parse(text.as_bytes()).unwrap().unwrap().0
    }

    fn check(access: &Access, lines: &str) -> Result<(), u16> {
        access.check(&head(lines)).map_err(|error| error.status)
    }

    #[test]
    fn host_is_an_address_or_an_allowed_name() {
        let access = Access {
            hosts: vec!["gpt.example".to_string()],
            ..Access::default()
        };
        for (host, allowed) in [
            ("127.0.0.1", true),
            ("192.168.0.9:8080", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("localhost:1", true),
            ("LocalHost", true),
            ("GPT.example:443", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("gpt.example.evil", false),
            ("localhost:80:80", false),
            ("localhost:a", false),
            ("[::1]x", false),
            ("[::1", false),
            ("", false),
        ] {
            let expected = if allowed { Ok(()) } else { Err(403) };
            assert_eq!(
                check(&access, &format!("Host: {host}\r\n")),
                expected,
                "{host}"
            );
        }
        assert_eq!(check(&access, ""), Ok(()));
        assert_eq!(check(&access, "Host: a\r\nHost: localhost\r\n"), Err(400));
    }

    #[test]
    fn foreign_origin_must_be_allowed() {
        let (none, mut one) = (Access::default(), Access::default());
        one.origins.push("https://app.example".to_string());
        let any = Access {
            origins: vec![ANY_ORIGIN.to_string()],
            ..Access::default()
        };
        for (origin, allowed) in [
            ("http://localhost:8080", [true; 3]),
            ("https://localhost:8080", [true; 3]),
            ("http://localhost:8081", [false, false, true]),
            ("https://app.example", [false, true, true]),
            ("http://app.example", [false, false, true]),
            ("https://app.example.evil", [false, false, true]),
            ("null", [false, false, true]),
        ] {
            let lines = format!("Host: localhost:8080\r\nOrigin: {origin}\r\n");
            for (access, allowed) in [&none, &one, &any].into_iter().zip(allowed) {
                let expected = if allowed { Ok(()) } else { Err(403) };
                assert_eq!(check(access, &lines), expected, "{origin}");
            }
        }
    }

    #[test]
    fn api_key_is_a_bearer_token() {
        let access = Access {
            api_key: Some("sk-1".to_string()),
            ..Access::default()
        };
        for (line, expected) in [
            ("Authorization: Bearer sk-1\r\n", Ok(())),
            ("authorization: bearer sk-1\r\n", Ok(())),
            ("Authorization: Bearer sk-2\r\n", Err(401)),
            ("Authorization: Bearer sk-11\r\n", Err(401)),
            ("Authorization: Bearer sk-\r\n", Err(401)),
            ("Authorization: Basic sk-1\r\n", Err(401)),
            ("Authorization: sk-1\r\n", Err(401)),
            ("", Err(401)),
        ] {
            assert_eq!(check(&access, line), expected, "{line}");
        }
        let mut public = head("");
        for path in PUBLIC_PATHS {
            public.path = path.to_string();
            assert_eq!(access.check(&public), Ok(()), "{path}");
        }
        let error = access.check(&head("")).unwrap_err();
        assert_eq!(error.header, Some(("WWW-Authenticate", "Bearer")));
    }
}
