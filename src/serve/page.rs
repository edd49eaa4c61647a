//! The web page: three files, served from the binary.

use super::http::Response;

const HTML: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// The page loads its own files and sends requests to this server. Everything else is forbidden.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// `GET /`.
pub fn html() -> Response {
    let mut response = file("text/html; charset=utf-8", HTML);
    response.headers.extend([
        (
            "Content-Security-Policy",
            CONTENT_SECURITY_POLICY.to_string(),
        ),
        ("Referrer-Policy", "no-referrer".to_string()),
    ]);
    response
}

/// `GET /style.css`.
pub fn style() -> Response {
    file("text/css; charset=utf-8", STYLE)
}

/// `GET /script.js`.
pub fn script() -> Response {
    file("text/javascript; charset=utf-8", SCRIPT)
}

fn file(content_type: &str, content: &str) -> Response {
    let mut response = Response::new(content_type, content.to_string());
    let header = ("X-Content-Type-Options", "nosniff".to_string());
    response.headers.push(header);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_no_inline_code_and_no_outside_resources() {
        for inline in ["<style", " style=", "<script>", " onclick="] {
            assert!(!HTML.contains(inline), "{inline}");
        }
        assert!(HTML.contains("href=\"style.css\"") && HTML.contains("src=\"script.js\""));
        for outside in ["http://", "https://", "@import", "url(", "innerHTML"] {
            for file in [HTML, STYLE, SCRIPT] {
                assert!(!file.contains(outside), "{outside}");
            }
        }
    }
}
