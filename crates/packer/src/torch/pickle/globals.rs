//! The Python names that a pickle may import. Their effects are reproduced; nothing is called.

/// A global that a state dict may import.
#[derive(Clone, Copy)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(&'static str),
}

/// The storage classes that a state dict may mention, whether supported or not.
const STORAGES: [&str; 10] = [
    "FloatStorage",
    "HalfStorage",
    "BFloat16Storage",
    "DoubleStorage",
    "LongStorage",
    "IntStorage",
    "ShortStorage",
    "CharStorage",
    "ByteStorage",
    "BoolStorage",
];

impl Global {
    /// The global with this name, unless it must be rejected.
    pub(super) fn named(module: &str, name: &str) -> Result<Self, String> {
        let storage = || STORAGES.into_iter().find(|&s| s == name).map(Self::Storage);
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", _) => storage(),
            _ => None,
        }
        .ok_or_else(|| {
            let global = format!("{module}.{name}");
            format!("imports {global:?}, which a state dict does not need; no code was executed")
        })
    }
}
