//! Pictures from the page: their size before they are decoded, and what a model sees of them.

use super::error_to_js;
use crate::{
    Error, Image, Result,
    control::{self, Reading},
    pipeline::config::ControlKind,
    pixels,
};
use burn::tensor::Device;
use js_sys::{Object, Reflect, Uint8Array, Uint8ClampedArray};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};

/// Sides of the picture in a file, read from its header alone: a `Size` object. `bytes` may be the file's first ones.
///
/// # Errors
/// `invalid` if no such format is known, if the header is not among the bytes, and if the picture has more pixels than one
/// may have.
#[wasm_bindgen]
pub fn image_size(bytes: &[u8]) -> Result<JsValue, JsValue> {
    let size = imagesize::blob_size(bytes).map_err(|error| invalid(format!("cannot be read: {error}")));
    let size = size.and_then(|size| Image::check_size(size.width, size.height).map(|_| size)).map_err(error_to_js)?;
    let object = Object::new().into();
    set(&object, "width", &size.width.into());
    set(&object, "height", &size.height.into());
    Ok(object)
}

/// What a model sees of `image` as the control `kind`, in `size` (`[height, width]`).
pub async fn control_view(kind: ControlKind, image: &Image, size: [usize; 2]) -> Result<Image> {
    match kind {
        ControlKind::Outline => Ok(control::outline(image, Reading::Auto, size)?.to_image()),
        ControlKind::Variation => pixels::to_image(pixels::fit(image, size, &Device::flex())).await,
    }
}

/// A `Pixels` object as an image.
pub fn from_pixels(value: &JsValue) -> Result<Image> {
    let side = |name| get(value, name).as_f64().filter(|side| side.fract() == 0.0 && *side >= 0.0);
    let rgba = match get(value, "rgba").dyn_into::<Uint8ClampedArray>() {
        Ok(bytes) => Some(bytes.to_vec()),
        Err(other) => other.dyn_into::<Uint8Array>().ok().map(|bytes| bytes.to_vec()),
    };
    match (side("width"), side("height"), rgba) {
        (Some(width), Some(height), Some(rgba)) => Image::new(width as usize, height as usize, rgba),
        _ => Err(invalid("is no picture: it needs width, height and rgba".into())),
    }
}

/// An image as a `Pixels` object.
pub fn to_pixels(image: &Image) -> JsValue {
    let object = Object::new().into();
    set(&object, "width", &image.width.into());
    set(&object, "height", &image.height.into());
    set(&object, "rgba", &Uint8ClampedArray::from(&image.rgba[..]));
    object
}

/// A property; `undefined` where there is none.
pub fn get(object: &JsValue, name: &str) -> JsValue {
    Reflect::get(object, &name.into()).unwrap_or_default()
}

pub fn set(object: &JsValue, name: &str, value: &JsValue) {
    Reflect::set(object, &name.into(), value).expect("a plain object takes any property");
}

fn invalid(why: String) -> Error {
    Error::Invalid { parameter: "image", why }
}
