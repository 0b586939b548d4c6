//! The system calls without a safe wrapper: the only unsafe code of the project.
//!
//! - [`unsent`]: how many bytes of a TCP socket have not been sent yet.
//! - [`give_back_code`]: returns the memory of code that is not needed after the start.
//!
//! ```
//! use std::io::Write;
//! use std::net::{TcpListener, TcpStream};
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let mut client = TcpStream::connect(listener.local_addr()?)?;
//! client.write_all(b"hello")?;
//! assert!(sidegate_system::unsent(&client)? <= 5);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! What it guarantees: each function is safe to call, and each `unsafe` block says why it is sound.

mod give_back;
mod unsent;

pub use give_back::give_back_code;
pub use unsent::unsent;
