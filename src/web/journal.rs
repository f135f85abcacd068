//! The log: what the engine writes to the console, and failures that only the log knows of.
//!
//! In a browser the GPU runtime learns only later that a shader did not compile, and says so in the log alone, while
//! the result holds garbage. Hence every logged error counts as a failure of the device.

use crate::{Error, Result};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::cell::RefCell;

thread_local! {
    static FAILURE: RefCell<Option<String>> = const { RefCell::new(None) };
}

struct Journal;

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if record.level() == Level::Error {
            FAILURE.with_borrow_mut(|failure| {
                failure.get_or_insert_with(|| record.args().to_string());
            });
        }
        console_log::log(record);
    }

    fn flush(&self) {}
}

/// Makes this the process's logger. Further calls do nothing.
pub fn install() {
    if log::set_logger(&Journal).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

/// Fails once an error was logged, and from then on: the device that made it is not to be trusted again.
///
/// # Errors
/// [`Error::Device`] with the first error's first line.
pub fn check() -> Result<()> {
    let failure = FAILURE.with_borrow(Clone::clone);
    failure.map_or(Ok(()), |message| Err(Error::Device(message.lines().next().unwrap_or_default().into())))
}
