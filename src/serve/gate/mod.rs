//! The gate: the only module that touches TCP.
//!
//! tiny_http bounds neither heads nor waiting times and accepts ambiguous framing, so no client may
//! reach it. The gate reads each request whole, under limits on size and time, and refuses what is
//! invalid, ambiguous or too much. What is left it sends over a lane, a private connection to
//! tiny_http, and it relays the response.
//!
//! - `server`: listens, and runs a thread per connection.
//! - `connection`, `head`, `body`: HTTP/1.1 with clients.
//! - `access`: the hosts, the origins and the API key that a request must have.
//! - `admission`: the queue of requests before the lanes.
//! - `lane`, `private_socket`: HTTP/1.1 with tiny_http.

mod access;
pub mod admission;
mod body;
pub mod connection;
mod head;
pub mod lane;
mod private_socket;
mod server;

pub use access::Access;
pub use server::{ServeOptions, Server};
