"""The room of `toilcache explain`: why a job is not running, told from what the job store holds."""
