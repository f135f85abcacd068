//! `pangu-draw cache`: what of models from the web is kept here; and where every command gets its model from.

use crate::{
    Result,
    weights::{
        Depot,
        store::{FolderStore, delete_model, stored_models},
    },
};
use clap::{Args, Subcommand};
use pollster::block_on;
use std::{env, path::PathBuf, rc::Rc};

/// Arguments of `pangu-draw cache`.
#[derive(Debug, Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    command: Option<CacheCommand>,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// List the models of which something is kept (this is what is done without a command).
    List,
    /// Delete a model, by the address that the list shows.
    Delete {
        /// Address of the model.
        address: String,
    },
}

impl CacheArgs {
    /// Lists or deletes.
    ///
    /// # Errors
    /// As [`stored_models`] and [`delete_model`].
    pub fn run(self) -> Result<()> {
        let store = FolderStore(folder());
        match self.command {
            None | Some(CacheCommand::List) => {
                for model in block_on(stored_models(&store))? {
                    println!(
                        "{:>14} of {:>14} bytes  {:<16}{}",
                        model.stored_bytes, model.bytes, model.name, model.address
                    );
                }
            }
            Some(CacheCommand::Delete { address }) => {
                println!("{} bytes freed", block_on(delete_model(&store, &address))?);
            }
        }
        Ok(())
    }
}

/// The model folder at `location`, a path or a URL; what comes from the web is kept.
pub fn depot(location: &str) -> Depot {
    Depot::open(location, Rc::new(FolderStore(folder())))
}

/// `$XDG_CACHE_HOME/pangu-draw/models`, or where that usually is.
fn folder() -> PathBuf {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    base.unwrap_or_else(env::temp_dir).join("pangu-draw/models")
}
