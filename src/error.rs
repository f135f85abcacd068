//! The one error type of the crate.

/// Everything that can go wrong, each variant saying what was wrong and what to do next.
///
/// [`Error::code`] is stable: the JavaScript face and the command line expose it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A component lacks a tensor that its network needs.
    #[error("tensor `{name}` is missing from {component}; the file does not belong to this configuration")]
    TensorMissing {
        /// Component the tensor was looked for in.
        component: String,
        /// Full tensor name.
        name: String,
    },
    /// A component holds a tensor that its network does not know.
    #[error(
        "tensor `{name}` in {component} is not part of the network; the file does not belong to this configuration"
    )]
    TensorUnexpected {
        /// Component that holds the tensor.
        component: String,
        /// Full tensor name.
        name: String,
    },
    /// A tensor has another shape than its network needs.
    #[error("tensor `{name}` in {component} has shape {found:?}, the network needs {expected:?}")]
    TensorShape {
        /// Component that holds the tensor.
        component: String,
        /// Full tensor name.
        name: String,
        /// Shape the network needs (PyTorch order).
        expected: Vec<usize>,
        /// Shape that was found.
        found: Vec<usize>,
    },
    /// A file or a download is not what its format says.
    #[error("{what} is damaged or not of the expected format: {why}")]
    Corrupt {
        /// What was read.
        what: String,
        /// What was wrong with it.
        why: String,
    },
    /// A chunk's SHA-256 differs from the manifest's.
    #[error("chunk {chunk} of {file} does not match its checksum; fetch it again")]
    Checksum {
        /// File the chunk belongs to.
        file: String,
        /// Index of the chunk.
        chunk: usize,
    },
    /// A file or a URL could not be read.
    #[error("cannot read {what}: {why}")]
    Read {
        /// What was to be read.
        what: String,
        /// The reason.
        why: String,
    },
    /// A server does not give a file out.
    #[error("cannot read {what}: the server answered {status}")]
    Refused {
        /// Address of the file.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// The model was replaced at its origin while it was loaded.
    #[error("{what} was replaced while it was loaded; load it again")]
    Changed {
        /// Address of the model.
        what: String,
    },
    /// An output could not be written.
    #[error("cannot write {what}: {why}")]
    Write {
        /// What was to be written.
        what: String,
        /// The reason.
        why: String,
    },
    /// A request's parameter is out of its range.
    #[error("{parameter}: {why}")]
    Invalid {
        /// Name of the parameter.
        parameter: &'static str,
        /// What is wrong and what is allowed.
        why: String,
    },
    /// The model cannot do what was asked, or its configuration is of a kind this engine does not know.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The request was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// No device of the requested kind, or the device failed.
    #[error("device: {0}")]
    Device(String),
}

impl Error {
    /// A stable machine-readable name of the kind of error, e.g. `"tensor-missing"`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TensorMissing { .. } => "tensor-missing",
            Self::TensorUnexpected { .. } => "tensor-unexpected",
            Self::TensorShape { .. } => "tensor-shape",
            Self::Corrupt { .. } => "corrupt",
            Self::Checksum { .. } => "checksum",
            Self::Read { .. } => "read",
            Self::Refused { .. } => "refused",
            Self::Changed { .. } => "changed",
            Self::Write { .. } => "write",
            Self::Invalid { .. } => "invalid",
            Self::Unsupported(_) => "unsupported",
            Self::Cancelled => "cancelled",
            Self::Device(_) => "device",
        }
    }
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
