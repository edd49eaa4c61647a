//! The HTTP server: one loaded model, blocking threads, JSON in and JSON out.
//!
//! `server` gives each connection a thread. It reads a request (`connection`, `head`, `body`), waits
//! for its turn (`admission`) or is refused at once when too many wait, finds the endpoint (`routes`) and
//! writes the answer. The texts of all requests are made together, by the threads of the `engine`.

mod admission;
pub(crate) mod api;
mod body;
pub(crate) mod connection;
pub(crate) mod engine;
mod head;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod openai;
mod page;
mod routes;
mod server;

pub use server::{ServeOptions, Server};
