//! The HTTP server: one loaded model, a blocking thread per connection, JSON requests and responses.
//!
//! - `server`: listens, accepts, and answers the requests of each connection in turn.
//! - `connection`, `head`, `body`: HTTP/1.1 over TCP, with limits on size and time. Only these and
//!   `server` touch a socket.
//! - `access`: the hosts, the origins and the API key that a request must have.
//! - `routes`: the table of endpoints. `native`, `openai` and `page` hold the handlers, `handler`
//!   their signatures, `params` the request fields that the two APIs share.
//! - `app_state`: the model, the [decode pool](crate::engine::DecodePool), the `admission` of
//!   requests to it, and the `metrics`.
//! - `http`: responses and errors, independent of the connection.

mod access;
mod admission;
pub(crate) mod app_state;
mod body;
pub(crate) mod connection;
pub(crate) mod handler;
mod head;
pub(crate) mod http;
mod metrics;
pub(crate) mod native;
pub(crate) mod openai;
mod page;
mod params;
mod routes;
mod server;

pub use access::Access;
pub use server::{ServeOptions, Server};
