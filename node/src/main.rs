//! Laid out in this commit.
fn main() {}
