"""What people and scripts see of the loop: JSON lines, the live view and the HTML report."""
