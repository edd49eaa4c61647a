//! `--format html`: a model and the program that samples from it, as one web page.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cli::console;
use crate::cli::failure::Failure;
use crate::model::ModelMeta;

const STYLE: &str = include_str!("page/page.css");
/// The forward pass and sampling.
const MODEL_SCRIPT: &str = include_str!("page/model.js");
/// The controls.
const PAGE_SCRIPT: &str = include_str!("page/page.js");

/// More weights take a browser too long per token.
const MAX_PARAMETERS: usize = 2_000_000;

/// The first bytes of every page, by which the next export recognizes it.
const SIGNATURE: &str = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
    <meta name=\"generator\" content=\"microgpt ";

/// Checks that the model is small enough and has characters, and that the output is a new file, a page to replace, or `-`.
pub fn check(meta: &ModelMeta, output: &Path) -> Result<()> {
    let parameters = meta.parameters()?;
    ensure!(
        parameters <= MAX_PARAMETERS,
        "the model has {} parameters, and a page may have {}: a browser would take too long per token",
        console::group_thousands(parameters as u64),
        console::group_thousands(MAX_PARAMETERS as u64)
    );
    let path = output.display();
    if output.is_dir() {
        bail!("{path} is a directory; --format html writes a file, such as --output model.html");
    }
    if output.is_file() {
        let mut start = Vec::new();
        File::open(output)
            .and_then(|file| file.take(SIGNATURE.len() as u64).read_to_end(&mut start))
            .with_context(|| format!("cannot read {path}"))?;
        ensure!(
            start == SIGNATURE.as_bytes(),
            "{path} is not a page of microgpt, and the export would overwrite it; choose another --output"
        );
    }
    Ok(())
}

/// Writes the page to a file, or to standard output for `-`. `weights` is a weights file. Returns the size
/// of the page.
pub fn write(meta: &ModelMeta, weights: &[u8], output: &Path) -> Result<usize, Failure> {
    let page = page(meta, weights);
    if output.as_os_str() == "-" {
        console::print(&page)?;
    } else {
        std::fs::write(output, &page)
            .with_context(|| format!("cannot write {}", output.display()))?;
    }
    Ok(page.len())
}

fn page(meta: &ModelMeta, weights: &[u8]) -> String {
    format!(
        include_str!("page/page.html"),
        version = env!("CARGO_PKG_VERSION"),
        policy = content_security_policy(),
        style = STYLE,
        meta = json_in_script(&meta.to_json()),
        tokenizer = json_in_script(&meta.tokenizer.to_json().unwrap_or_default()),
        weights = BASE64.encode(weights),
        model_script = MODEL_SCRIPT,
        page_script = PAGE_SCRIPT,
    )
}

/// Encodes JSON without the character that could end the script element.
fn json_in_script(json: &Value) -> String {
    json.to_string().replace('<', "\\u003c")
}

/// Forbids everything but the style and the two scripts of the page.
fn content_security_policy() -> String {
    let hash = |source: &str| format!("'sha256-{}'", BASE64.encode(Sha256::digest(source)));
    format!(
        "default-src 'none'; style-src {}; script-src {} {}; img-src data:; base-uri 'none'; \
        form-action 'none'",
        hash(STYLE),
        hash(MODEL_SCRIPT),
        hash(PAGE_SCRIPT)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{CorpusKind, Tokenizer};
    use crate::model::ModelConfig;

    fn page_of(text: &str) -> String {
        let meta = ModelMeta {
            config: ModelConfig::default(),
            tokenizer: Tokenizer::from_texts([text].into_iter(), CorpusKind::Documents),
        };
        page(&meta, b"weights")
    }

    #[test]
    fn page_has_its_parts_and_a_signature() {
        let page = page_of("ab");
        assert!(page.starts_with(SIGNATURE));
        for part in [STYLE, MODEL_SCRIPT, PAGE_SCRIPT, ">d2VpZ2h0cw==<"] {
            assert!(page.contains(part));
        }
    }

    #[test]
    fn vocabulary_cannot_end_its_script_element() {
        let page = page_of("</script><!--");
        assert_eq!(page.matches("</script>").count(), 5);
        assert!(!page.contains("<!--"));
    }

    #[test]
    fn page_has_no_inline_code_and_no_outside_resources() {
        let html = include_str!("page/page.html");
        for inline in [" style=", " onclick=", " src=", " href=\"h"] {
            assert!(!html.contains(inline), "{inline}");
        }
        for file in [html, STYLE, MODEL_SCRIPT, PAGE_SCRIPT] {
            for outside in [
                "http://",
                "https://",
                "@import",
                "url(",
                "innerHTML",
                "fetch(",
                "eval(",
            ] {
                assert!(!file.contains(outside), "{outside}");
            }
            assert!(
                !file.contains('\r'),
                "a browser would change what is hashed"
            );
        }
    }

    #[test]
    fn model_over_the_maximum_number_of_parameters_is_refused() {
        let meta = |block_size| ModelMeta {
            config: ModelConfig {
                block_size,
                ..ModelConfig::default()
            },
            tokenizer: Tokenizer::from_texts(["ab"].into_iter(), CorpusKind::Documents),
        };
        assert!(check(&meta(100_000), Path::new("-")).is_ok());
        let error = check(&meta(200_000), Path::new("-")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the model has 3,203,168 parameters, and a page may have 2,000,000: a browser would take \
            too long per token"
        );
    }
}
