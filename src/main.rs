//! The `pangu-draw` command.

fn main() {}
