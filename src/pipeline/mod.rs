//! A request in, events and an image out.
