"""What several threads of a replica do at once; run under ThreadSanitizer by scripts/tsan.sh."""
