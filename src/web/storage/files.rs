//! The origin's private file system (OPFS) as a store of chunks.

use super::{NAME, describe, lock, refused, settled};
use crate::{
    Error, Result,
    weights::{
        source::Pending,
        store::{Lock, Store},
    },
};
use js_sys::{AsyncIterator, Object, Promise, Reflect, Uint8Array};
use std::collections::BTreeMap;
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    type Directory;
    #[wasm_bindgen(catch, js_namespace = ["navigator", "storage"], js_name = getDirectory)]
    fn get_directory() -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = getDirectoryHandle)]
    fn get_directory_handle(this: &Directory, name: &str, options: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = getFileHandle)]
    fn get_file_handle(this: &Directory, name: &str, options: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = removeEntry)]
    fn remove_entry(this: &Directory, name: &str) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method)]
    fn values(this: &Directory) -> AsyncIterator;

    type FileHandle;
    #[wasm_bindgen(method, getter)]
    fn name(this: &FileHandle) -> String;
    #[wasm_bindgen(method, catch, js_name = getFile)]
    fn get_file(this: &FileHandle) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = createWritable)]
    fn create_writable(this: &FileHandle) -> Result<Promise, JsValue>;

    type Writable;
    #[wasm_bindgen(method, catch)]
    fn write(this: &Writable, bytes: &Uint8Array) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn close(this: &Writable) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn abort(this: &Writable) -> Result<Promise, JsValue>;

    type Blob;
    #[wasm_bindgen(method, getter)]
    fn size(this: &Blob) -> f64;
    #[wasm_bindgen(method, catch, js_name = arrayBuffer)]
    fn array_buffer(this: &Blob) -> Result<Promise, JsValue>;
}

/// A folder of the origin's private file system. A file is replaced wholly when its writer is closed, and not before.
pub struct FileStore(Directory);

impl FileStore {
    /// The store.
    ///
    /// # Errors
    /// The browser's, where it has no private file system or may not write to it.
    pub async fn open() -> Result<Self, JsValue> {
        // Some browsers have the folder, but no writer.
        let handles = Reflect::get(&js_sys::global(), &"FileSystemFileHandle".into())?;
        if !Reflect::has(&Reflect::get(&handles, &"prototype".into())?, &"createWritable".into())? {
            return Err(js_sys::Error::new("files of this origin cannot be written").into());
        }
        let root: Directory = settled(get_directory()).await?.unchecked_into();
        Ok(Self(settled(root.get_directory_handle(NAME, &create())).await?.unchecked_into()))
    }

    async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, JsValue> {
        let handle = match settled(self.0.get_file_handle(key, &JsValue::UNDEFINED)).await {
            Ok(handle) => handle.unchecked_into::<FileHandle>(),
            Err(error) if named(&error, "NotFoundError") => return Ok(None),
            Err(error) => return Err(error),
        };
        let file: Blob = settled(handle.get_file()).await?.unchecked_into();
        let bytes = settled(file.array_buffer()).await?;
        Ok(Some(Uint8Array::new(&bytes).to_vec()))
    }

    async fn write(&self, key: &str, bytes: &[u8]) -> Result<(), JsValue> {
        let handle: FileHandle = settled(self.0.get_file_handle(key, &create())).await?.unchecked_into();
        let writable: Writable = settled(handle.create_writable()).await?.unchecked_into();
        let written = async {
            settled(writable.write(&Uint8Array::from(bytes))).await?;
            settled(writable.close()).await
        };
        match written.await {
            Ok(_) => Ok(()),
            Err(error) => {
                // What was there before stays; a file that was made for this is empty, and goes.
                let _ = settled(writable.abort()).await;
                let _ = settled(self.0.remove_entry(key)).await;
                Err(error)
            }
        }
    }

    async fn sizes(&self) -> Result<BTreeMap<String, u64>, JsValue> {
        let (entries, mut sizes) = (self.0.values(), BTreeMap::new());
        loop {
            let next = JsFuture::from(entries.next()?).await?;
            if Reflect::get(&next, &"done".into())?.is_truthy() {
                return Ok(sizes);
            }
            let handle: FileHandle = Reflect::get(&next, &"value".into())?.unchecked_into();
            // What vanished meanwhile, or is no file, is not listed.
            if let Ok(file) = settled(handle.get_file()).await {
                sizes.insert(handle.name(), file.unchecked_into::<Blob>().size() as u64);
            }
        }
    }
}

impl Store for FileStore {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, Result<Option<Vec<u8>>>> {
        Box::pin(async move {
            let read = self.read(key).await;
            read.map_err(|error| Error::Read { what: format!("{key} in the store"), why: describe(&error) })
        })
    }

    fn put<'a>(&'a self, key: &'a str, bytes: &'a [u8]) -> Pending<'a, Result<()>> {
        Box::pin(async move { self.write(key, bytes).await.map_err(|error| refused(key, &error)) })
    }

    fn remove<'a>(&'a self, key: &'a str) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            match settled(self.0.remove_entry(key)).await {
                Err(error) if !named(&error, "NotFoundError") => Err(refused(key, &error)),
                _ => Ok(()),
            }
        })
    }

    fn list(&self) -> Pending<'_, Result<BTreeMap<String, u64>>> {
        Box::pin(async move {
            let listed = self.sizes().await;
            listed.map_err(|error| Error::Read { what: "the store".into(), why: describe(&error) })
        })
    }

    fn lock(&self, key: &str) -> Pending<'static, Lock> {
        lock(key)
    }
}

/// `{ create: true }`.
fn create() -> JsValue {
    let options = Object::new();
    let _ = Reflect::set(&options, &"create".into(), &true.into());
    options.into()
}

fn named(error: &JsValue, name: &str) -> bool {
    Reflect::get(error, &"name".into()).is_ok_and(|found| found == name)
}
