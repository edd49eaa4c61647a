//! The web page at `/`: one file, served from the binary.

use std::sync::LazyLock;

use base64::prelude::{BASE64_STANDARD, Engine};
use sha2::{Digest, Sha256};

use super::http::Response;

const PAGE: &str = include_str!("page.html");

/// What the browser is allowed: the page's own style and script, known by their hashes, and
/// requests to this server. Nothing else, from anywhere.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
        hash(between("<style>", "</style>")),
        hash(between("<script>", "</script>"))
    )
});

/// The text of the page's one element of a kind.
fn between(begin: &str, end: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(begin).unwrap_or_default();
    rest.split_once(end).unwrap_or_default().0
}

fn hash(text: &str) -> String {
    BASE64_STANDARD.encode(Sha256::digest(text))
}

/// `GET /`.
pub fn page() -> Response {
    let mut answer = Response::new("text/html; charset=utf-8", PAGE.to_string());
    answer.headers.extend([
        ("Content-Security-Policy", POLICY.clone()),
        ("X-Content-Type-Options", "nosniff".to_string()),
        ("Referrer-Policy", "no-referrer".to_string()),
    ]);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_one_file_with_one_style_and_one_script() {
        for tag in ["<style>", "<script>"] {
            assert_eq!(PAGE.matches(tag).count(), 1);
            assert_eq!(
                PAGE.matches(tag.trim_end_matches('>')).count(),
                1,
                "without attributes"
            );
        }
        for outside in [
            "http://",
            "https://",
            " src=",
            "@import",
            "url(",
            "innerHTML",
            " style=",
        ] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        assert!(!between("<style>", "</style>").is_empty());
        assert!(!between("<script>", "</script>").is_empty());
    }
}
