"""What people look at; everything here can be made again from the search directory."""
