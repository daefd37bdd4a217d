# Posts the CPU time of a Windows machine once. Usage: ./sample.ps1 [URL]
param([string]$Url = "http://localhost:8080/ingest")
$processor = Get-CimInstance Win32_Processor | Measure-Object LoadPercentage -Average
$sample = @{
    Timestamp = [DateTimeOffset]::UtcNow.ToUnixTimeMilliseconds()
    device    = $env:COMPUTERNAME
    CPU       = $processor.Average
}
Invoke-RestMethod -Uri $Url -Method Post -ContentType "application/json" -Body ($sample | ConvertTo-Json)
