"""Any function or module beside any reference; gradients beside difference quotients."""
