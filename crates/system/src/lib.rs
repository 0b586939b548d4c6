//! The system calls for which there is no safe wrapper: the only unsafe code of the project.

mod give_back;
mod unsent;

pub use give_back::give_back_code;
pub use unsent::unsent;
