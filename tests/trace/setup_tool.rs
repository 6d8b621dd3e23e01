//! setup_tool
