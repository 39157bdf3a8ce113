//! What the control plane knows of its proxies, as pure values.
