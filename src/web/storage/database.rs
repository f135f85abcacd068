//! IndexedDB as a store of chunks, for browsers that cannot write files.

use super::{describe, lock, refused};
use crate::{
    Error, Result,
    weights::{
        source::Pending,
        store::{Lock, Store},
    },
};
use js_sys::{Array, Promise, Uint8Array};
use std::collections::BTreeMap;
use wasm_bindgen::{JsCast, JsValue, closure::Closure, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    type Database;
    #[wasm_bindgen(method, catch, js_name = createObjectStore)]
    fn create_object_store(this: &Database, name: &str) -> Result<Table, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn transaction(this: &Database, tables: &Array, mode: &str) -> Result<Transaction, JsValue>;
    #[wasm_bindgen(method)]
    fn close(this: &Database);

    #[wasm_bindgen(catch, js_namespace = indexedDB, js_name = open)]
    fn open_database(name: &str, version: u32) -> Result<Request, JsValue>;
    #[wasm_bindgen(catch, js_namespace = indexedDB, js_name = deleteDatabase)]
    fn delete_database(name: &str) -> Result<Request, JsValue>;

    type UpgradeEvent;
    #[wasm_bindgen(method, getter)]
    fn target(this: &UpgradeEvent) -> Request;

    type Transaction;
    #[wasm_bindgen(method, catch, js_name = objectStore)]
    fn object_store(this: &Transaction, name: &str) -> Result<Table, JsValue>;
    #[wasm_bindgen(method, getter)]
    fn error(this: &Transaction) -> JsValue;
    #[wasm_bindgen(method, setter, js_name = oncomplete)]
    fn set_on_complete(this: &Transaction, listener: &JsValue);
    #[wasm_bindgen(method, setter, js_name = onabort)]
    fn set_on_abort(this: &Transaction, listener: &JsValue);

    type Table;
    #[wasm_bindgen(method, catch)]
    fn get(this: &Table, key: &str) -> Result<Request, JsValue>;
    #[wasm_bindgen(method, catch, js_name = getAll)]
    fn get_all(this: &Table) -> Result<Request, JsValue>;
    #[wasm_bindgen(method, catch, js_name = getAllKeys)]
    fn get_all_keys(this: &Table) -> Result<Request, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn put(this: &Table, value: &JsValue, key: &str) -> Result<Request, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn delete(this: &Table, key: &str) -> Result<Request, JsValue>;

    type Request;
    #[wasm_bindgen(method, getter)]
    fn result(this: &Request) -> JsValue;
    #[wasm_bindgen(method, getter)]
    fn error(this: &Request) -> JsValue;
    #[wasm_bindgen(method, setter, js_name = onsuccess)]
    fn set_on_success(this: &Request, listener: &JsValue);
    #[wasm_bindgen(method, setter, js_name = onerror)]
    fn set_on_error(this: &Request, listener: &JsValue);
    #[wasm_bindgen(method, setter, js_name = onupgradeneeded)]
    fn set_on_upgrade_needed(this: &Request, listener: &JsValue);
}

/// Name of the database: nobody else's, as it is deleted where there are files instead.
const NAME: &str = "pangu-draw-chunks";
/// Table of the bytes, by key.
const BYTES: &str = "bytes";
/// Table of their lengths, so that listing reads no bytes.
const LENGTHS: &str = "lengths";

/// A database of the origin. It is opened for each transaction, so that no tab keeps another, or the user, from deleting it.
pub struct DatabaseStore(());

impl DatabaseStore {
    /// The store.
    ///
    /// # Errors
    /// The browser's, where it has no database for this page.
    pub async fn open() -> Result<Self, JsValue> {
        Connection::new().await.map(|_| Self(()))
    }

    /// Removes the whole database, if there is one, as soon as nobody uses it.
    pub(super) fn discard() {
        let _ = delete_database(NAME);
    }
}

/// The open database, closed when nobody needs it any more; transactions that run still end.
struct Connection(Database);

impl Connection {
    /// Opens the database, and makes it if need be.
    async fn new() -> Result<Self, JsValue> {
        thread_local! {
            static MAKE: Closure<dyn FnMut(UpgradeEvent)> = Closure::new(|event: UpgradeEvent| {
                let database: Database = event.target().result().unchecked_into();
                for table in [BYTES, LENGTHS] {
                    // Where this fails, so does every transaction.
                    let _ = database.create_object_store(table);
                }
            });
        }
        let request = open_database(NAME, 1)?;
        MAKE.with(|make| request.set_on_upgrade_needed(make.as_ref()));
        let opened = Promise::new(&mut |resolve, reject| {
            request.set_on_success(&resolve);
            request.set_on_error(&reject);
        });
        match JsFuture::from(opened).await {
            Ok(_) => Ok(Self(request.result().unchecked_into())),
            Err(_) => Err(request.error()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Makes one transaction of the requests that `ask` makes of the tables of bytes and of lengths; answers their results when all
/// of it is done, or an error when nothing is.
async fn transact<const N: usize>(
    mode: &str,
    ask: impl FnOnce(&Table, &Table) -> Result<[Request; N], JsValue>,
) -> Result<[JsValue; N], JsValue> {
    let connection = Connection::new().await?;
    let transaction = connection.0.transaction(&Array::of2(&BYTES.into(), &LENGTHS.into()), mode)?;
    let requests = ask(&transaction.object_store(BYTES)?, &transaction.object_store(LENGTHS)?)?;
    let over = Promise::new(&mut |resolve, reject| {
        transaction.set_on_complete(&resolve);
        transaction.set_on_abort(&reject);
    });
    match JsFuture::from(over).await {
        Ok(_) => Ok(requests.map(|request| request.result())),
        Err(_) => Err(transaction.error()),
    }
}

impl Store for DatabaseStore {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, Result<Option<Vec<u8>>>> {
        Box::pin(async move {
            let unreadable = |why| Error::Read { what: format!("{key} in the store"), why };
            let found = transact("readonly", |bytes, _| Ok([bytes.get(key)?])).await;
            let [found] = found.map_err(|error| unreadable(describe(&error)))?;
            match found.dyn_into::<Uint8Array>() {
                Ok(bytes) => Ok(Some(bytes.to_vec())),
                Err(nothing) if nothing.is_undefined() => Ok(None),
                Err(_) => Err(unreadable("it is no bytes".into())),
            }
        })
    }

    fn put<'a>(&'a self, key: &'a str, bytes: &'a [u8]) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            let (value, len) = (Uint8Array::from(bytes), JsValue::from(bytes.len() as f64));
            let put = transact("readwrite", |bytes, lengths| Ok([bytes.put(&value, key)?, lengths.put(&len, key)?]));
            put.await.map(drop).map_err(|error| refused(key, &error))
        })
    }

    fn remove<'a>(&'a self, key: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            let removed = transact("readwrite", |bytes, lengths| Ok([bytes.delete(key)?, lengths.delete(key)?]));
            removed.await.map(drop).map_err(|error| refused(key, &error))
        })
    }

    fn list(&self) -> Pending<'_, Result<BTreeMap<String, u64>>> {
        Box::pin(async move {
            let listed = transact("readonly", |_, lengths| Ok([lengths.get_all_keys()?, lengths.get_all()?])).await;
            let [keys, lengths] =
                listed.map_err(|error| Error::Read { what: "the store".into(), why: describe(&error) })?;
            let entries = Array::from(&keys).into_iter().zip(Array::from(&lengths));
            Ok(entries.filter_map(|(key, len)| Some((key.as_string()?, len.as_f64()? as u64))).collect())
        })
    }

    fn lock(&self, key: &str) -> Pending<'static, Lock> {
        lock(key)
    }
}
