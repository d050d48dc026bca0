@echo off
rem sample-1: windows2022, run 1. The first thing that runs in WinPE.
rem WinPE cannot ask for go: that the boot script was served, once, was the go. What can be checked here, is.
wpeinit
wpeutil WaitForNetwork
ipconfig /all | findstr /i /c:"52-54-00-12-34-56" >nul && goto machine
ipconfig /all | findstr /i /c:"52-54-00-12-34-57" >nul && goto machine
set why=wrong machine: none of its MACs is one of 52:54:00:12:34:56 52:54:00:12:34:57
goto refuse
:machine
echo list disk>X:\list.txt
diskpart /s X:\list.txt >X:\disks.txt
set disks=0
for /f %%d in ('findstr /r /c:"^  Disk [0-9]" X:\disks.txt') do set /a disks+=1
if %disks%==1 goto disk
set why=this machine has %disks% disks: name one with --var windows_disk=0
goto refuse
:disk
set tries=0
:share
net use Z: \\192.0.2.1\windows && goto setup
set /a tries+=1
if %tries% geq 24 set why=the share \\192.0.2.1\windows cannot be reached& goto refuse
ping -n 6 127.0.0.1 >nul
goto share
:setup
start /wait Z:\setup.exe /unattend:X:\Windows\System32\unattend.xml /noreboot
for %%v in (C D E F G H W) do if exist %%v:\Windows\System32\config\SYSTEM set system=%%v:
if not defined system set why=setup has left no Windows on the disk& goto refuse
mkdir %system%\Windows\Setup\Scripts
copy /y X:\Windows\System32\SetupComplete.cmd %system%\Windows\Setup\Scripts\SetupComplete.cmd
wpeutil reboot
exit /b 0
:refuse
echo baremetal: %why%
ping -n 60 127.0.0.1 >nul
wpeutil shutdown
