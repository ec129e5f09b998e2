"""Reports as one HTML file: what a page holds, and how each command's results become one."""
