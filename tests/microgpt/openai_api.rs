//! The fields of OpenAI's endpoints: forms that clients send, refusals, and log-probabilities.

use serde_json::{Value, json};

use crate::program::{chat_model_dir, run_with_stdin, text_model_dir};
use crate::serve::Server;

const TEXT: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A request with the fields of two objects.
fn with(mut base: Value, fields: Value) -> Value {
    let base_fields = base.as_object_mut().expect("an object");
    base_fields.extend(fields.as_object().expect("an object").clone());
    base
}

#[test]
fn fields_are_accepted_in_the_forms_that_clients_send() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "");
    let base = json!({ "prompt": "a", "seed": 3, "temperature": 1 });
    let text = |fields: Value| {
        let response = server.post(TEXT, &with(base.clone(), fields)).json(200);
        response["choices"][0]["text"].as_str().unwrap().to_string()
    };
    let plain = text(json!({}));
    for fields in [
        json!({ "top_k": 0 }),
        json!({ "top_k": -1 }),
        json!({ "max_tokens": -1 }),
        json!({ "max_tokens": null, "stop": null, "logit_bias": null }),
        json!({ "max_tokens": 16.0, "n": 1.0 }),
        json!({ "tools": [], "tool_choice": "none", "response_format": { "type": "text" } }),
        json!({ "user": "u", "metadata": {}, "store": false, "service_tier": "auto" }),
        json!({ "best_of": 1, "suffix": "", "echo": false, "frequency_penalty": 0 }),
        json!({ "stream_options": { "include_usage": true } }),
    ] {
        assert_eq!(text(fields.clone()), plain, "{fields}");
    }
    assert_eq!(
        text(json!({ "top_p": 0 })),
        text(json!({ "temperature": 0 }))
    );
    let with_mark = format!("\u{feff}{base}");
    let response = server.send(&crate::serve::post(TEXT, &with_mark)).json(200);
    assert_eq!(response["choices"][0]["text"], json!(plain));

    // 'z' is pushed to the front, and all others away.
    let biased = text(json!({ "logit_bias": { "25": 100 }, "max_tokens": 4 }));
    assert_eq!(biased, "zzzz");
    let spread = json!({ "logit_bias": { "24": 60, "25": 60 }, "max_tokens": 8, "temperature": 0 });
    let penalty = json!({ "frequency_penalty": 2, "presence_penalty": 2 });
    let penalized = text(with(spread.clone(), penalty));
    assert_ne!(penalized, text(spread));
    assert_eq!(penalized.matches('z').count(), 4, "{penalized}");
    assert!(
        text(json!({ "pattern": "a[xyz]+" }))
            .chars()
            .all(|c| "xyz".contains(c))
    );
}

#[test]
fn unsupported_fields_are_refused_by_name() {
    let dir = chat_model_dir();
    let server = Server::start(dir.path(), "");
    let base = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    for (fields, expected) in [
        (json!({ "tools": [{}] }), "tools is not supported"),
        (
            json!({ "tool_choice": "auto" }),
            "tool_choice is not supported",
        ),
        (
            json!({ "response_format": { "type": "json_object" } }),
            "response_format is not",
        ),
        (json!({ "audio": {} }), "audio is not supported"),
        (
            json!({ "reasoning_effort": "low" }),
            "reasoning_effort is not supported",
        ),
        (json!({ "max_tokens": 0 }), "max_tokens must be >= 1, got 0"),
        (
            json!({ "logit_bias": { "x": 1 } }),
            "logit_bias[\"x\"] must be a number by token id",
        ),
        (
            json!({ "logit_bias": { "1": 200 } }),
            "logit_bias must be >= -100 and <= 100, got 200",
        ),
        (
            json!({ "presence_penalty": 3 }),
            "presence_penalty must be >= -2 and <= 2, got 3",
        ),
        (
            json!({ "top_logprobs": 3 }),
            "top_logprobs needs logprobs: true",
        ),
        (
            json!({ "logprobs": true, "top_logprobs": 21 }),
            "top_logprobs must be a whole number",
        ),
    ] {
        let error = server
            .post(CHAT, &with(base.clone(), fields.clone()))
            .json(400);
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(expected), "{fields}: {message}");
    }
    let tool = json!({ "messages": [
        { "role": "user", "content": "hi" },
        { "role": "assistant", "content": null, "tool_calls": [] },
        { "role": "tool", "content": "1" },
    ] });
    let error = server.post(CHAT, &tool).json(400);
    let message = error["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("messages[2].role must be system, user or assistant, got \"tool\"")
    );
    let empty = json!({ "messages": [{ "role": "assistant", "content": null },
        { "role": "user", "content": "hi" }] });
    let response = server.post(CHAT, &empty).json(200);
    assert!(response["id"].as_str().unwrap().starts_with("chatcmpl-"));
}

#[test]
fn paths_with_a_slash_at_the_end_are_the_same() {
    let dir = chat_model_dir();
    let server = Server::start(dir.path(), "");
    assert_eq!(
        server.get("/v1/models/").json(200),
        server.get("/v1/models").json(200)
    );
    let model = server.get("/v1/models/microgpt/").json(200);
    assert_eq!(model, server.get("/v1/models/microgpt").json(200));
    let body = json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 2 });
    server.post("/v1/chat/completions/", &body).json(200);
    assert_eq!(server.get("/v1/").status, 404);
}

#[test]
fn chat_models_complete_plain_prompts() {
    let dir = chat_model_dir();
    let server = Server::start(dir.path(), "");
    let body = json!({ "prompt": "hel", "max_tokens": 8, "echo": true, "logprobs": 0 });
    let response = server.post(TEXT, &body).json(200);
    let choice = &response["choices"][0];
    assert!(choice["text"].as_str().unwrap().starts_with("hel"));
    assert_eq!(choice["logprobs"]["tokens"][0], "h");
    assert_eq!(response["usage"]["prompt_tokens"], 4, "with bos");
}

#[test]
fn echoed_logprobs_are_the_scores_of_the_prompt() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "");
    let line = "maria";
    let scores = run_with_stdin(dir.path(), "score -m model --json", b"maria\n").ok();
    let score: Value = serde_json::from_str(&scores.stdout).unwrap();
    let bits = score["bits"].as_f64().unwrap();
    // The tokens of the line between two bos, as `score` takes them.
    let tokens: Vec<u32> = line.bytes().map(|byte| u32::from(byte - b'a')).collect();
    let document = [&[26], &tokens[..], &[26]].concat();
    let echo = json!({ "prompt": document, "echo": true, "logprobs": 2, "max_tokens": 0 });
    let response = server.post(TEXT, &echo).json(200);
    let choice = &response["choices"][0];
    assert_eq!(choice["text"], line);
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(response["usage"]["completion_tokens"], 0);
    let logprobs = &choice["logprobs"];
    let names = json!(["<bos>", "m", "a", "r", "i", "a", "<bos>"]);
    assert_eq!(logprobs["tokens"], names);
    assert_eq!(logprobs["text_offset"], json!([0, 0, 1, 2, 3, 4, 5]));
    assert_eq!(logprobs["token_logprobs"][0], Value::Null);
    assert_eq!(logprobs["top_logprobs"][0], Value::Null);
    let numbers = logprobs["token_logprobs"].as_array().unwrap()[1..].iter();
    let nats: f64 = numbers.map(|number| number.as_f64().unwrap()).sum();
    assert!(
        (nats / -std::f64::consts::LN_2 - bits).abs() < 1e-9,
        "{nats} {bits}"
    );
    for (top, own) in logprobs["top_logprobs"]
        .as_array()
        .unwrap()
        .iter()
        .zip(0..)
        .skip(1)
    {
        let top = top.as_object().unwrap();
        assert_eq!(top.len(), 2);
        let best = top
            .values()
            .map(|value| value.as_f64().unwrap())
            .fold(f64::MIN, f64::max);
        assert!(logprobs["token_logprobs"][own as usize].as_f64().unwrap() <= best);
    }

    // The same as text, whose first character follows bos, beside another prompt and a token.
    let echo = json!({ "prompt": [line, ""], "echo": true, "logprobs": 2, "max_tokens": 1,
        "temperature": 0 });
    let response = server.post(TEXT, &echo).json(200);
    let found = &response["choices"][0]["logprobs"]["token_logprobs"]
        .as_array()
        .unwrap()[..5];
    assert_eq!(found, &logprobs["token_logprobs"].as_array().unwrap()[1..6]);
    let alone = server.post(
        TEXT,
        &json!({ "prompt": [26], "max_tokens": 1, "temperature": 0 }),
    );
    assert_eq!(
        alone.json(200)["choices"][0]["text"],
        response["choices"][1]["text"]
    );

    for (prompt, expected) in [
        (
            json!([27]),
            "the prompt has the token 27, but the vocabulary has 27",
        ),
        (
            json!([[1], "a", 2]),
            "prompt must be a string, an array of token ids, or an array",
        ),
        (
            json!([-1]),
            "prompt must be a string, an array of token ids, or an array",
        ),
    ] {
        let error = server.post(TEXT, &json!({ "prompt": prompt })).json(400);
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn generated_logprobs_are_those_of_the_echo_streamed_or_not() {
    let dir = text_model_dir();
    let server = Server::start(dir.path(), "");
    let body = json!({ "prompt": "an", "seed": 8, "logprobs": 3, "echo": true, "max_tokens": 5,
        "temperature": 1.5, "logit_bias": { "26": -100 } });
    let response = server.post(TEXT, &body).json(200);
    let choice = &response["choices"][0];
    let text = choice["text"].as_str().unwrap();
    let found = &choice["logprobs"]["token_logprobs"];
    assert_eq!(found.as_array().unwrap().len(), text.len(), "{choice}");
    let again = json!({ "prompt": text, "echo": true, "logprobs": 3, "max_tokens": 0 });
    let again = server.post(TEXT, &again).json(200);
    assert_eq!(again["choices"][0]["logprobs"], choice["logprobs"]);

    let streamed = server
        .post(TEXT, &with(body, json!({ "stream": true })))
        .body;
    let events = streamed
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"));
    let events = events.map(|json| serde_json::from_str(&format!("{{{json}")).unwrap());
    let choices: Vec<Value> = events
        .map(|event: Value| event["choices"][0].clone())
        .collect();
    let of = |key: &str| -> Vec<Value> {
        let parts = choices
            .iter()
            .filter_map(|choice| choice["logprobs"][key].as_array());
        parts.flatten().cloned().collect()
    };
    assert_eq!(&json!(of("token_logprobs")), found);
    assert_eq!(json!(of("text_offset")), choice["logprobs"]["text_offset"]);

    // The end token has no text, but a log-probability, on which evaluation harnesses rely.
    let body = json!({ "prompt": "an", "logprobs": 0, "logit_bias": { "26": 100 } });
    let ended = server.post(TEXT, &body).json(200);
    assert_eq!(ended["choices"][0]["logprobs"]["tokens"], json!(["<bos>"]));
    let streamed = server
        .post(TEXT, &with(body, json!({ "stream": true })))
        .body;
    assert!(streamed.contains(r#""tokens":["<bos>"]"#), "{streamed}");

    let dir = chat_model_dir();
    let server = Server::start(dir.path(), "");
    let body = json!({ "messages": [{ "role": "user", "content": "hi" }], "temperature": 0,
        "max_tokens": 5, "logprobs": true, "top_logprobs": 2 });
    let response = server.post(CHAT, &body).json(200);
    let choice = &response["choices"][0];
    let content = choice["logprobs"]["content"].as_array().unwrap();
    let text: String = content
        .iter()
        .map(|entry| entry["token"].as_str().unwrap())
        .collect();
    assert_eq!(json!(text), choice["message"]["content"]);
    for entry in content {
        assert_eq!(entry["top_logprobs"].as_array().unwrap().len(), 2);
        assert_eq!(
            entry["top_logprobs"][0]["logprob"], entry["logprob"],
            "greedy"
        );
        assert_eq!(
            entry["bytes"],
            json!(entry["token"].as_str().unwrap().as_bytes())
        );
    }
}
