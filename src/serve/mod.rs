//! The HTTP server: one loaded model, a pool of tiny_http workers, JSON requests and responses.
//!
//! - `gate`: TCP. Reads, judges and admits requests, and relays the responses of the workers.
//! - `workers`: blocking threads that answer tiny_http's requests.
//! - `routes`: the table of endpoints. `native`, `openai` and `page` hold the handlers, `handler`
//!   their signatures, `params` the request fields that the two APIs share.
//! - `app_state`: the model, the [decode pool](crate::engine::DecodePool), the admission of
//!   requests to it, and the `metrics`.
//! - `http`: responses and errors, independent of the connection.

pub(crate) mod app_state;
pub(crate) mod gate;
pub(crate) mod handler;
pub(crate) mod http;
mod metrics;
pub(crate) mod native;
pub(crate) mod openai;
mod page;
mod params;
mod routes;
mod workers;

pub use gate::{Access, ServeOptions, Server};
