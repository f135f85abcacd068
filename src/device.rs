//! Choosing where to compute: a GPU through wgpu (WebGPU in a browser), or the CPU backend; and in which numbers.

use crate::{Error, Result, nets::precision::Precision};
use burn::tensor::{
    DType, Device,
    wgpu::{WgpuBackend, wgpu},
};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Which device a caller wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if there is one, else the CPU.
    #[default]
    Auto,
    /// A GPU or a software adapter through wgpu; an error where there is none.
    Wgpu,
    /// The CPU.
    Cpu,
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "wgpu" | "webgpu" => Ok(Self::Wgpu),
            "cpu" => Ok(Self::Cpu),
            _ => Err(Error::Invalid {
                parameter: "device",
                why: format!("`{name}` is none of auto, wgpu (webgpu), cpu"),
            }),
        }
    }
}

/// Which numbers a caller wants networks to compute in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionChoice {
    /// f16 on a GPU that has it (`shader-f16`), else f32; f32 also where a GPU is emulated, which f16 makes slower.
    #[default]
    Auto,
    /// f16; an error where there is none.
    F16,
    /// f32.
    F32,
}

impl FromStr for PrecisionChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "f16" => Ok(Self::F16),
            "f32" => Ok(Self::F32),
            _ => Err(Error::Invalid { parameter: "precision", why: format!("`{name}` is none of auto, f16, f32") }),
        }
    }
}

/// A device that was opened.
#[derive(Debug, Clone)]
pub struct OpenDevice {
    /// Where tensors live.
    pub device: Device,
    /// `"wgpu"` or `"cpu"`.
    pub backend: &'static str,
    /// The adapter's own name, or `"CPU"`.
    pub name: String,
    /// Whether it is a GPU emulated in software.
    pub emulated: bool,
    /// Why the CPU was taken although `Auto` prefers a GPU.
    pub notice: Option<String>,
}

impl OpenDevice {
    /// The numbers that networks compute in here, where `choice` is wanted. The CPU has f32 only.
    ///
    /// # Errors
    /// [`Error::Invalid`] if [`PrecisionChoice::F16`] is wanted and not here.
    pub fn precision(&self, choice: PrecisionChoice) -> Result<Precision> {
        let f16 = self.backend == "wgpu" && self.device.supports_dtype(DType::F16);
        match choice {
            PrecisionChoice::F32 => Ok(Precision::F32),
            PrecisionChoice::Auto if self.emulated => Ok(Precision::F32),
            _ if f16 => Ok(Precision::F16),
            PrecisionChoice::Auto => Ok(Precision::F32),
            PrecisionChoice::F16 => Err(Error::Invalid {
                parameter: "precision",
                why: format!("{} does not compute in f16; ask for f32, or leave the choice to auto", self.name),
            }),
        }
    }
}

/// Opens a device. A GPU is set up once a process (once a page's worker): keep the answer and share it.
///
/// `Auto` does not count a software adapter as a GPU, since the CPU backend is faster than an emulated GPU.
///
/// # Errors
/// [`Error::Device`] if [`DeviceChoice::Wgpu`] finds no adapter.
pub async fn open(choice: DeviceChoice) -> Result<OpenDevice> {
    let cpu =
        |notice| OpenDevice { device: Device::flex(), backend: "cpu", name: "CPU".into(), emulated: false, notice };
    if choice == DeviceChoice::Cpu {
        return Ok(cpu(None));
    }
    let api = if cfg!(target_arch = "wasm32") { WgpuBackend::WebGpu } else { WgpuBackend::Auto };
    match Device::wgpu_options().graphics_api(api).init_with_setup_async().await {
        Ok((device, setup)) => {
            let info = setup.adapter.get_info();
            let emulated = info.device_type == wgpu::DeviceType::Cpu;
            if choice == DeviceChoice::Auto && emulated {
                return Ok(cpu(Some(format!("the only adapter, {}, is emulated in software", info.name))));
            }
            Ok(OpenDevice { device, backend: "wgpu", name: info.name, emulated, notice: None })
        }
        Err(error) if choice == DeviceChoice::Auto => Ok(cpu(Some(error.to_string()))),
        Err(error) => Err(Error::Device(format!("no GPU adapter could be opened: {error}"))),
    }
}
