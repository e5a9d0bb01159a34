"""From the ledger to a page that can be published: statistics, tables, figures."""
