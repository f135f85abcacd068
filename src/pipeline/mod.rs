//! A request in, events and an image out. Nothing here knows who asks.

pub mod config;
