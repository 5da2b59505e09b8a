"""What the compatibility tests are made of: daemons, images, commands, and how answers are compared."""
