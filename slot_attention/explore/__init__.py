"""A page in the browser that shows slots and lets visitors rearrange them."""
