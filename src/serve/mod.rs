//! The HTTP server: one loaded model, a pool of blocking worker threads over tiny_http, JSON in and
//! JSON out.
//!
//! A request goes from tiny_http's connection thread to the dispatcher, which refuses it at once
//! when the queue is full, and else to a worker, which reads it, routes it and answers. A body that
//! is not there yet is waited for on a thread of its own, so that a slow client holds up nobody.

pub(crate) mod api;
mod body;
pub(crate) mod engine;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod openai;
mod page;
mod server;
mod stop;

pub use server::{ServeOptions, Server};
