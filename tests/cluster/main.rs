//! A node runs pods, and nothing of it stays behind.
fn main() {}
