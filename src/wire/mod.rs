//! Protobuf forms of the control stream and their conversion to the model.
